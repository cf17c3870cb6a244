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

#include "common/amx.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "int8_conv2d/finish.h"
#include "int8_conv2d/finish_avx512.h"
#include "int8_conv2d/lines.h"
#include "int8_gemm/driver.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-int8,prefer-vector-width=512")))

namespace pyprod::int8_conv2d {
namespace {

using int8_gemm::ceil_div;
using int8_gemm::kPanel;
using int8_gemm::kRowBytes;

// With fewer, strips are mostly empty: a batch's pixels fill tiles better as rows of one product.
constexpr int64_t kFewestPixels = 9;
// Lines that are copied at once stay close; a quarter of the smallest L2 that comes with AMX.
constexpr int64_t kBandBytes = 1 << 19;
constexpr int kStrip = 16;          // places of the window in a tile
constexpr int64_t kTileBytes = 64;  // of a tile's row
constexpr int64_t kAccBytes = kPanel * 4;

// How a convolution is cut.
struct Cut {
  int64_t width;          // of a line of the image with its border, pixels
  int64_t chunks, chunk;  // a window's line: how many, bytes of each, a multiple of 4
  bool wraps;             // whether strips run over the ends of lines
  int64_t line_strips;    // strips of an output line, where they do not
  int64_t pairs;          // of strips of an image
  int64_t band;           // pairs for which the lines they read are copied at once
  int64_t band_bytes;     // of that copy, with what tiles read beyond its end

  explicit Cut(const Conv& conv) {
    const Window& w = conv.window;
    width = conv.in.w + 2 * w.pad_w;
    const int64_t words = ceil_div(w.kernel_w * conv.in.c, 4);
    chunks = ceil_div(words * 4, kTileBytes);
    chunk = ceil_div(words, chunks) * 4;
    line_strips = ceil_div(conv.out.w, kStrip);
    const int64_t wrapped = ceil_div((conv.out.h - 1) * width + conv.out.w, kStrip);
    wraps = w.stride_h == 1 && w.stride_w == 1 && wrapped < conv.out.h * line_strips;
    pairs = ceil_div(wraps ? wrapped : conv.out.h * line_strips, 2);
    const int64_t line = width * conv.in.c, beyond = 2 * kStrip * w.stride_w * conv.in.c + kTileBytes * (chunks + 1);
    const int64_t window = (w.kernel_h - 1) * w.dilation_h + 1;
    const int64_t lines = std::max<int64_t>(1, (kBandBytes - beyond) / line - window) / w.stride_h;  // of output
    band = std::clamp<int64_t>(lines * (wraps ? width : line_strips * kStrip) / (2 * kStrip), 1, pairs);
    // So many output lines are touched at most by a band that begins anywhere in one.
    const int64_t touched = (wraps ? 2 * band * kStrip / width : 2 * band / line_strips) + 2;
    band_bytes = (std::min(touched, conv.out.h) * w.stride_h + window) * line + beyond;
  }

  int64_t strips() const { return 2 * pairs; }
};

// Tile registers for one convolution, given back however it ends.
class Tiles {
 public:
  // Sums are tiles 0 to 3 (strip 0: 0, 1; strip 1: 2, 3), pixels 4 and 5, weights 6 and 7.
  explicit Tiles(int64_t chunk) {
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      config.rows[t] = static_cast<uint8_t>(t >= 6 ? chunk / 4 : kStrip);
      config.row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? chunk : kTileBytes);
    }
    TILE_CONFIGURE(config);
  }
  ~Tiles() { TILE_RELEASE(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Walks the places of an image, strip by strip.
class Places {
 public:
  Places(const Conv& conv, const Cut& cut, int64_t strip) : conv_(conv), cut_(cut) {
    const int64_t line = cut.wraps ? cut.width : cut.line_strips;
    y_ = (cut.wraps ? strip * kStrip : strip) / line;
    x_ = cut.wraps ? strip * kStrip % line : strip % line * kStrip;
  }

  // The output lines of the strip's first place and of its last; the last there is, where it lies behind all.
  int64_t line() const { return std::min(y_, conv_.out.h - 1); }
  int64_t last_line() const { return std::min(cut_.wraps ? y_ + (x_ + kStrip - 1) / cut_.width : y_, conv_.out.h - 1); }

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

// Pairs of strips [begin, end) of one image against every panel. `weights`: as by_lines() made them.
TARGET void pairs(const Conv& conv, const Cut& cut, Band<CopyRun>& band, int64_t begin, int64_t end,
                  const int8_t* weights, const int8_t* x, const void* residual, void* out) {
  const Window& w = conv.window;
  const int64_t first = Places(conv, cut, 2 * begin).line(), last = Places(conv, cut, 2 * end - 1).last_line();
  const char* image = band.copy(x, first * w.stride_h, last * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1);
  const int64_t packed = int8_gemm::panel_bytes(conv.k()), copied = w.kernel_h * cut.chunks * cut.chunk * kPanel;
  for (int64_t n = 0; n < conv.out.c; n += kPanel) {
    const int8_t* panel = conv.packed + n / kPanel * packed;
    const int8_t* from = weights != nullptr ? weights + n / kPanel * copied : panel + kRowBytes;
    const Finish finish(conv, residual, out, n, panel);
    if (conv.out.c - n > 16) {
      strips<true>(conv, cut, image, 2 * begin, 2 * end, from, finish);
    } else {
      strips<false>(conv, cut, image, 2 * begin, 2 * end, from, finish);
    }
  }
}

}  // namespace

bool has_direct_amx(const Conv& conv) {
  const int64_t room = int8_gemm::l2_bytes() / 2;
  return isa() == Isa::amx && conv.out.h * conv.out.w >= kFewestPixels && has_finish_avx512(conv) &&
         conv.window.dilation_w == 1 && conv.out.c * conv.k() <= room && Cut(conv).band_bytes <= room;
}

void run_direct_amx(const Conv& conv, int64_t images, const int8_t* x, const void* residual, void* out) {
  const Cut cut(conv);
  const int64_t added = conv.out.size() * bytes_of(conv.residual_type);
  const int64_t written = conv.out.size() * bytes_of(conv.out_type);
  const int64_t grain = ceil_div(kGrain, 2 * kStrip * conv.out.c * conv.k());
  parallel_for(0, images * cut.pairs, grain, [&](int64_t begin, int64_t end) {
    const int8_t* weights = by_lines(conv, cut.chunks * cut.chunk);
    Band<CopyRun> band(conv, cut.width, cut.band_bytes);
    const Tiles tiles(cut.chunk);
    while (begin < end) {
      const int64_t image = begin / cut.pairs, start = image * cut.pairs;
      const int64_t until = std::min({end, start + cut.pairs, begin + cut.band});
      const char* r = static_cast<const char*>(residual);
      pairs(conv, cut, band, begin - start, until - start, weights, x + image * conv.in.size(),
            r != nullptr ? r + image * added : nullptr, static_cast<char*>(out) + image * written);
      begin = until;
    }
  });
}

}  // namespace pyprod::int8_conv2d

#else

namespace pyprod::int8_conv2d {

bool has_direct_amx(const Conv&) { return false; }

void run_direct_amx(const Conv&, int64_t, const int8_t*, const void*, void*) {}

}  // namespace pyprod::int8_conv2d

#endif
