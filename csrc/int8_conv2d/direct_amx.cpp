// A convolution whose patches are never put together. In an image [h, w, c] that has its border, what a window's line
// reads for one pixel, kernel_w * c bytes, lies side by side, and for the next pixel begins stride_w * c bytes later: a
// tile of 16 pixels is one tileloadd with that stride. Nine reads of each byte happen in L1 and cost no instruction.
//
// A *strip* is 16 places of the window, one after the other. With stride 1 they may run over the end of a line into the
// next: the places in between, whose windows wrap around, are computed and dropped (2 of 30 in a line of 28), which
// fills the tiles where a line has 7 pixels. A window's line is cut into equal chunks of at most 64 bytes, so that one
// tile configuration serves all of them.

#include "int8_conv2d/direct.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "common/amx.h"
#include "common/parallel.h"
#include "int8_conv2d/finish.h"
#include "int8_conv2d/finish_avx512.h"
#include "int8_conv2d/scratch.h"
#include "int8_gemm/driver.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-int8,prefer-vector-width=512")))

namespace pyprod::int8_conv2d {
namespace {

using int8_gemm::ceil_div;
using int8_gemm::kPanel;
using int8_gemm::kRowBytes;

// With fewer, strips are mostly empty: a batch's pixels fill tiles better as rows of one product.
constexpr int64_t kFewestPixels = 9;
constexpr int kStrip = 16;          // places of the window in a tile
constexpr int64_t kTileBytes = 64;  // of a tile's row
constexpr int64_t kAccBytes = kPanel * 4;

// How a convolution is cut.
struct Cut {
  int64_t width, height;  // of the image with its border
  int64_t chunks, chunk;  // a window's line: how many, bytes of each, a multiple of 4
  bool wraps;             // whether strips run over the ends of lines
  int64_t line_strips;    // strips of an output line, where they do not
  int64_t strips;         // of an image
  int64_t image_bytes;    // what is read of the copy, beyond its end too

  explicit Cut(const Conv& conv) {
    const Window& w = conv.window;
    width = conv.in.w + 2 * w.pad_w;
    height = conv.in.h + 2 * w.pad_h;
    const int64_t words = ceil_div(w.kernel_w * conv.in.c, 4);
    chunks = ceil_div(words * 4, kTileBytes);
    chunk = ceil_div(words, chunks) * 4;
    line_strips = ceil_div(conv.out.w, kStrip);
    const int64_t wrapped = ceil_div((conv.out.h - 1) * width + conv.out.w, kStrip);
    wraps = w.stride_h == 1 && w.stride_w == 1 && wrapped < conv.out.h * line_strips;
    strips = wraps ? wrapped : conv.out.h * line_strips;
    image_bytes = (width * height + 2 * kStrip * w.stride_w) * conv.in.c + kTileBytes * (chunks + 1);
  }

  // Whether the packed weight can be read in place: a window's line is a whole number of its words, and of chunks.
  bool in_place(const Conv& conv) const { return conv.window.kernel_w * conv.in.c == chunks * chunk; }
};

// One image with its border, in scratch memory of this thread. Lines are copied as they are; the border is set once.
class Bordered {
 public:
  Bordered(const Conv& conv, const Cut& cut)
      : conv_(conv), cut_(cut), data_(scratch<Purpose::rows>(static_cast<size_t>(cut.image_bytes))) {
    std::memset(data_, conv.x.zero_point, static_cast<size_t>(cut.image_bytes));
  }

  void fill(const int8_t* image) const {
    const int64_t line = conv_.in.w * conv_.in.c, step = cut_.width * conv_.in.c;
    char* to = data_ + conv_.window.pad_h * step + conv_.window.pad_w * conv_.in.c;
    for (int64_t y = 0; y < conv_.in.h; ++y, image += line, to += step) {
      copy_run(reinterpret_cast<int8_t*>(to), image, line);
    }
  }

  const char* data() const { return data_; }

 private:
  const Conv& conv_;
  const Cut& cut_;
  char* data_;
};

// The weights of a panel by kernel line and chunk: where `in_place`, the packed ones; else a copy that has zeros where
// a chunk reads bytes of the next pixel.
const int8_t* chunked(const Conv& conv, const Cut& cut, const int8_t* panel, int8_t* copy) {
  if (cut.in_place(conv)) return panel + kRowBytes;
  const int64_t run = conv.window.kernel_w * conv.in.c, padded = cut.chunks * cut.chunk;
  std::memset(copy, 0, static_cast<size_t>(conv.window.kernel_h * padded * kPanel));
  for (int64_t i = 0; i < conv.window.kernel_h; ++i) {
    for (int64_t j = 0; j < run; ++j) {
      const int64_t from = i * run + j, to = i * padded + j;
      const int8_t* source = panel + kRowBytes * (1 + from / 4) + from % 4;
      int8_t* target = copy + kRowBytes * (to / 4) + to % 4;
      for (int n = 0; n < kPanel; ++n) target[4 * n] = source[4 * n];
    }
  }
  return copy;
}

// Sums are tiles 0 to 3 (strip 0: 0, 1; strip 1: 2, 3), pixels 4 and 5, weights 6 and 7.
void configure(int64_t chunk) {
  TileConfig config;
  for (int t = 0; t < 8; ++t) {
    config.rows[t] = static_cast<uint8_t>(t >= 6 ? chunk / 4 : kStrip);
    config.row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? chunk : kTileBytes);
  }
  TILE_CONFIGURE(config);
}

// Walks the places of an image, strip by strip.
class Places {
 public:
  Places(const Conv& conv, const Cut& cut, int64_t strip) : conv_(conv), cut_(cut) {
    const int64_t line = cut.wraps ? cut.width : cut.line_strips;
    y_ = (cut.wraps ? strip * kStrip : strip) / line;
    x_ = cut.wraps ? strip * kStrip % line : strip % line * kStrip;
  }

  // Bytes from the start of the bordered image to the first place's window.
  int64_t offset() const {
    const Window& w = conv_.window;
    return (y_ * w.stride_h * cut_.width + x_ * w.stride_w) * conv_.in.c;
  }

  // Hands each run of places that are output pixels to `finish(m, rows, row)`, then goes to the next strip.
  template <class F>
  TARGET PYPROD_INLINE void take(const F& finish) {
    const int64_t end = cut_.wraps ? cut_.width : conv_.out.w;
    for (int row = 0; row < kStrip && y_ < conv_.out.h;) {
      const int places = static_cast<int>(std::min<int64_t>(kStrip - row, end - x_));
      const int pixels = static_cast<int>(std::clamp<int64_t>(conv_.out.w - x_, 0, places));
      if (pixels > 0) finish.rows(y_ * conv_.out.w + x_, pixels, row);
      row += places;
      x_ += places;
      if (x_ < end) continue;
      x_ = 0;
      ++y_;
      if (!cut_.wraps) return;
    }
  }

 private:
  const Conv& conv_;
  const Cut& cut_;
  int64_t y_, x_;
};

// Sums of one strip, or of two, for a panel of up to 16 channels, or of 32.
template <bool kTwo, bool kWide>
TARGET PYPROD_INLINE void multiply(const Conv& conv, const Cut& cut, const char* first, const char* second,
                                   const int8_t* weights, int32_t* acc) {
  const int64_t stride = conv.window.stride_w * conv.in.c;
  const int64_t line = conv.window.dilation_h * cut.width * conv.in.c, step = cut.chunk / 4 * kRowBytes;
  TILE_ZERO(0);
  if constexpr (kWide) TILE_ZERO(1);
  if constexpr (kTwo) TILE_ZERO(2);
  if constexpr (kTwo && kWide) TILE_ZERO(3);
  for (int64_t i = 0; i < conv.window.kernel_h; ++i, first += line, second += line) {
    for (int64_t j = 0; j < cut.chunks; ++j, weights += step) {
      TILE_LOAD(4, first + j * cut.chunk, stride);
      TILE_LOAD(6, weights, kRowBytes);
      TILE_MULTIPLY(0, 4, 6);
      if constexpr (kTwo) {
        TILE_LOAD(5, second + j * cut.chunk, stride);
        TILE_MULTIPLY(2, 5, 6);
      }
      if constexpr (kWide) {
        TILE_LOAD(7, weights + kTileBytes, kRowBytes);
        TILE_MULTIPLY(1, 4, 7);
        if constexpr (kTwo) TILE_MULTIPLY(3, 5, 7);
      }
    }
  }
  TILE_STORE(0, acc, kAccBytes);
  if constexpr (kWide) TILE_STORE(1, acc + 16, kAccBytes);
  if constexpr (kTwo) TILE_STORE(2, acc + kStrip * kPanel, kAccBytes);
  if constexpr (kTwo && kWide) TILE_STORE(3, acc + kStrip * kPanel + 16, kAccBytes);
}

// What a strip's runs become.
struct Runs {
  const Finish& finish;
  const int32_t* acc;
  TARGET PYPROD_INLINE void rows(int64_t m, int rows, int row) const { finish.rows(m, rows, acc + row * kPanel); }
};

// Strips [begin, end) of an image against one panel.
template <bool kWide>
TARGET void strips(const Conv& conv, const Cut& cut, const char* image, int64_t begin, int64_t end,
                   const int8_t* weights, const Finish& finish) {
  alignas(64) int32_t acc[2][2 * kStrip * kPanel];
  Places reading(conv, cut, begin);
  struct Skip {
    void rows(int64_t, int, int) const {}
  };
  Places writing = reading;
  int current = 0;
  for (int64_t strip = begin; strip < end; strip += 2, current ^= 1) {
    const char* first = image + reading.offset();
    reading.take(Skip{});
    int32_t* const sums = acc[current];
    if (strip + 1 < end) {
      const char* second = image + reading.offset();
      reading.take(Skip{});
      multiply<true, kWide>(conv, cut, first, second, weights, sums);
      writing.take(Runs{finish, sums});
      writing.take(Runs{finish, sums + kStrip * kPanel});
    } else {
      multiply<false, kWide>(conv, cut, first, first, weights, sums);
      writing.take(Runs{finish, sums});
    }
  }
}

TARGET void panels(const Conv& conv, const Cut& cut, const char* image, int64_t begin, int64_t end,
                   const void* residual, void* out) {
  int8_t* copy = nullptr;
  const int64_t bytes = int8_gemm::panel_bytes(conv.k());
  if (!cut.in_place(conv)) {
    const int64_t padded = conv.window.kernel_h * cut.chunks * cut.chunk * kPanel;
    copy = reinterpret_cast<int8_t*>(scratch<Purpose::patch>(static_cast<size_t>(padded)));
  }
  for (int64_t n = 0; n < conv.out.c; n += kPanel) {
    const int8_t* panel = conv.packed + n / kPanel * bytes;
    const int8_t* weights = chunked(conv, cut, panel, copy);
    const Finish finish(conv, residual, out, n, panel);
    if (conv.out.c - n > 16) {
      strips<true>(conv, cut, image, begin, end, weights, finish);
    } else {
      strips<false>(conv, cut, image, begin, end, weights, finish);
    }
  }
}

}  // namespace

bool has_direct(const Conv& conv) {
  static const bool amx = std::string_view(int8_gemm::path().name) == "amx";
  return amx && conv.out.h * conv.out.w >= kFewestPixels && has_finish_avx512(conv) && conv.window.dilation_w == 1 &&
         conv.out.c * conv.k() <= int8_gemm::l2_bytes() / 2;
}

void run_direct(const Conv& conv, int64_t images, const int8_t* x, const void* residual, void* out) {
  const Cut cut(conv);
  const int64_t residual_size = conv.residual_type == Element::int8 ? 1 : 4;
  const int64_t out_size = conv.out_type == Element::int8 ? 1 : 4;
  const int64_t pairs = ceil_div(cut.strips, 2);
  const int64_t grain = ceil_div(kGrain, 2 * kStrip * conv.out.c * conv.k());
  // Threads share pairs of strips; each has an image of its own.
  parallel_for(0, images * pairs, grain, [&](int64_t begin, int64_t end) {
    const Bordered bordered(conv, cut);
    configure(cut.chunk);
    for (int64_t pair = begin; pair < end;) {
      const int64_t image = pair / pairs, last = std::min(end, (image + 1) * pairs);
      bordered.fill(x + image * conv.in.size());
      const auto* added = static_cast<const char*>(residual);
      if (added != nullptr) added += image * conv.out.size() * residual_size;
      panels(conv, cut, bordered.data(), (pair - image * pairs) * 2, std::min(cut.strips, (last - image * pairs) * 2),
             added, static_cast<char*>(out) + image * conv.out.size() * out_size);
      pair = last;
    }
    TILE_RELEASE();
  });
}

}  // namespace pyprod::int8_conv2d

#else

namespace pyprod::int8_conv2d {

bool has_direct(const Conv&) { return false; }

void run_direct(const Conv&, int64_t, const int8_t*, const void*, void*) {}

}  // namespace pyprod::int8_conv2d

#endif
