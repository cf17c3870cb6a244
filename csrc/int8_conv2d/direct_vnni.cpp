// The direct convolution by AVX512-VNNI. In an image [h, w, c] that has its border, what a window's line reads for one
// pixel, kernel_w * c bytes, lies side by side, and for the next pixel begins stride_w * c bytes later. A tile of up to
// 10 pixels of an output line by 32 channels, or by 16 where no more are left, keeps its sums in registers over all
// lines of the window; each of the window's bytes is read where it lies, no patch is put together.
//
// Activations are kept as q + 128, as in int8_gemm/avx512_vnni.cpp: the image is shifted while it is copied.

#include "int8_conv2d/direct.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <utility>

#include "common/isa.h"
#include "common/parallel.h"
#include "int8_conv2d/finish.h"
#include "int8_conv2d/finish_avx512.h"
#include "int8_conv2d/lines.h"
#include "int8_gemm/driver.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

namespace pyprod::int8_conv2d {
namespace {

using int8_gemm::ceil_div;
using int8_gemm::four_bytes;
using int8_gemm::kPanel;
using int8_gemm::kRowBytes;

// Pixels of a tile: 97 to 101% of the vpdpbusd ceiling of a Zen 4 up to 10, 92 to 95% with 12, whose sums g++ 12
// spills.
constexpr int kMostPixels = 10;
// Shorter lines leave too few sums in flight to hide the latency of vpdpbusd.
constexpr int64_t kFewestPixels = 4;
// Lines that are copied at once stay close.
constexpr int64_t kBandBytes = 1 << 17;

// Bytes xor'ed with 0x80, which adds 128.
struct CopyShifted {
  static constexpr uint8_t kFlip = 0x80;
  TARGET static void copy(int8_t* to, const int8_t* from, int64_t n) {
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(kFlip));
    for (int64_t i = 0; i < n; i += 64) {
      const __mmask64 mask = n - i >= 64 ? ~uint64_t{0} : (uint64_t{1} << (n - i)) - 1;
      _mm512_mask_storeu_epi8(to + i, mask, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, from + i), flip));
    }
  }
};

// How a convolution is cut.
struct Cut {
  int64_t width;       // of a line of the image with its border, pixels
  int64_t words;       // of four bytes in a window's line
  int64_t tiles;       // of an output line
  int64_t band;        // output lines for which the lines they read are copied at once
  int64_t band_bytes;  // of that copy, with what the last pixel reads beyond its end

  explicit Cut(const Conv& conv) {
    const Window& w = conv.window;
    width = conv.in.w + 2 * w.pad_w;
    words = ceil_div(w.kernel_w * conv.in.c, 4);
    tiles = ceil_div(conv.out.w, kMostPixels);
    const int64_t line = width * conv.in.c, window = (w.kernel_h - 1) * w.dilation_h + 1;
    band = std::clamp<int64_t>((kBandBytes / line - window) / w.stride_h + 1, 1, conv.out.h);
    band_bytes = ((band - 1) * w.stride_h + window) * line + 4;
  }

  // Lines of the image with its border that output lines [begin, end) read.
  static int64_t first_read(const Conv& conv, int64_t begin) { return begin * conv.window.stride_h; }
  static int64_t end_read(const Conv& conv, int64_t end) {
    return (end - 1) * conv.window.stride_h + (conv.window.kernel_h - 1) * conv.window.dilation_h + 1;
  }
};

// What a tile reads: its first pixel's window, the bytes from one pixel to the next, and where each word of a window
// lies.
struct Reads {
  const char* first;
  int64_t pixel;
  const int32_t* words;
  const int32_t* end;
};

// acc[kPixels][32]: the sums of a tile for kVectors of 16 channels, from `start` (a panel's first row).
template <int kPixels, int kVectors>
TARGET void multiply(const Reads& reads, const int8_t* weights, const int8_t* start, int32_t* acc) {
  __m512i sums[kPixels][kVectors];
#pragma GCC unroll 10
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_loadu_si512(start + 64 * v);
  for (const int32_t* word = reads.words; word != reads.end; ++word, weights += kRowBytes) {
    const char* pixels = reads.first + *word;
    __m512i w[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) w[v] = _mm512_loadu_si512(weights + 64 * v);
#pragma GCC unroll 10
    for (int r = 0; r < kPixels; ++r) {
      const __m512i x = _mm512_set1_epi32(four_bytes(pixels + r * reads.pixel));
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], x, w[v]);
    }
  }
#pragma GCC unroll 10
  for (int r = 0; r < kPixels; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(acc + r * kPanel + 16 * v, sums[r][v]);
}

using Multiply = void (*)(const Reads& reads, const int8_t* weights, const int8_t* start, int32_t* acc);

// multiply() by how many pixels it takes, less one.
template <int kVectors, size_t... kPixels>
constexpr std::array<Multiply, sizeof...(kPixels)> by_pixels(std::index_sequence<kPixels...>) {
  return {multiply<kPixels + 1, kVectors>...};
}
constexpr auto kNarrow = by_pixels<1>(std::make_index_sequence<kMostPixels>());
constexpr auto kWide = by_pixels<2>(std::make_index_sequence<kMostPixels>());

// Where each word of a window lies, from its first byte, in scratch memory; a band is at most half of L2. As one loop
// over them a tile has one exit to be predicted: with a loop over lines and one over a line's words, 16 channels took
// 10% longer whenever the predictor lost track.
const int32_t* word_offsets(const Conv& conv, const Cut& cut) {
  auto* const words = reinterpret_cast<int32_t*>(scratch<Words>(conv.window.kernel_h * cut.words * sizeof(int32_t)));
  int32_t* word = words;
  for (int64_t i = 0; i < conv.window.kernel_h; ++i)
    for (int64_t k = 0; k < cut.words; ++k)
      *word++ = static_cast<int32_t>(i * conv.window.dilation_h * cut.width * conv.in.c + 4 * k);
  return words;
}

// Output lines [begin, end) of one image against every panel. `weights`: as by_lines() made them.
TARGET void lines(const Conv& conv, const Cut& cut, const char* image, int64_t begin, int64_t end,
                  const int8_t* weights, const int32_t* words, const void* residual, void* out) {
  const Window& w = conv.window;
  const int64_t packed = int8_gemm::panel_bytes(conv.k()), copied = w.kernel_h * cut.words * kRowBytes;
  const int64_t pixel = w.stride_w * conv.in.c, line = cut.width * conv.in.c;
  alignas(64) int32_t acc[kMostPixels * kPanel];
  for (int64_t n = 0; n < conv.out.c; n += kPanel) {
    const int8_t* panel = conv.packed + n / kPanel * packed;
    const int8_t* from = weights != nullptr ? weights + n / kPanel * copied : panel + kRowBytes;
    const auto& kernels = conv.out.c - n > 16 ? kWide : kNarrow;
    const Finish finish(conv, residual, out, n, panel);
    for (int64_t y = begin; y < end; ++y) {
      const char* row = image + y * w.stride_h * line;
      for (int64_t t = 0; t < cut.tiles; ++t) {
        const int64_t x = t * conv.out.w / cut.tiles, pixels = (t + 1) * conv.out.w / cut.tiles - x;
        kernels[pixels - 1]({row + x * pixel, pixel, words, words + w.kernel_h * cut.words}, from, panel, acc);
        finish.rows(y * conv.out.w + x, static_cast<int>(pixels), acc);
      }
    }
  }
}

// One line for all pixels of an image, where the window is one pixel: tiles then need not end with the lines.
Conv unfolded(const Conv& conv) {
  const Window& w = conv.window;
  Conv flat = conv;
  if (w.kernel_h == 1 && w.kernel_w == 1 && conv.in == Shape{conv.out.h, conv.out.w, conv.in.c}) {
    flat.in = {1, conv.in.h * conv.in.w, conv.in.c};
    flat.out = {1, conv.out.h * conv.out.w, conv.out.c};
  }
  return flat;
}

}  // namespace

bool has_direct_vnni(const Conv& conv) {
  const int64_t room = int8_gemm::l2_bytes() / 2;
  return isa() == Isa::avx512_vnni && conv.out.w >= kFewestPixels && has_finish_avx512(conv) &&
         conv.window.dilation_w == 1 && conv.out.c * conv.k() <= room && Cut(conv).band_bytes <= room;
}

void run_direct_vnni(const Conv& folded, int64_t images, const int8_t* x, const void* residual, void* out) {
  const Conv conv = unfolded(folded);
  const Cut cut(conv);
  const int64_t height = conv.out.h;
  const int64_t added = conv.out.size() * bytes_of(conv.residual_type);
  const int64_t written = conv.out.size() * bytes_of(conv.out_type);
  const int64_t grain = ceil_div(kGrain, conv.out.w * conv.out.c * conv.k());
  parallel_for(0, images * height, grain, [&](int64_t begin, int64_t end) {
    const int8_t* weights = by_lines(conv, cut.words * 4);
    const int32_t* words = word_offsets(conv, cut);
    Band<CopyShifted> band(conv, cut.width, cut.band_bytes);
    while (begin < end) {
      const int64_t image = begin / height, start = image * height;
      const int64_t until = std::min({end, start + height, begin + cut.band}), first = begin - start;
      const char* from =
          band.copy(x + image * conv.in.size(), Cut::first_read(conv, first), Cut::end_read(conv, until - start));
      const char* r = static_cast<const char*>(residual);
      lines(conv, cut, from, first, until - start, weights, words, r != nullptr ? r + image * added : nullptr,
            static_cast<char*>(out) + image * written);
      begin = until;
    }
  });
}

}  // namespace pyprod::int8_conv2d

#else

namespace pyprod::int8_conv2d {

bool has_direct_vnni(const Conv&) { return false; }

void run_direct_vnni(const Conv&, int64_t, const int8_t*, const void*, void*) {}

}  // namespace pyprod::int8_conv2d

#endif
