// AVX2 without VNNI. vpmaddubsw would add two u8*s8 products with int16 saturation, silently wrong for large values;
// so both sides are widened to int16 and vpmaddwd is exact, at half the rate.

#if defined(__x86_64__)

#include <immintrin.h>

#include "int8_gemm/rows.h"

#define TARGET __attribute__((target("avx2")))

namespace pyprod::int8_gemm {
namespace {

constexpr int kRows = 4;  // 4 rows x 8 channels x 2 halves: 8 accumulators, 2 weights, 1 activation of 16 registers

TARGET void prepare(const int8_t* a, int64_t k, void* prepared) {
  prepare_row<int16_t, 0>(a, k, static_cast<int16_t*>(prepared));
}

TARGET void prepare_unsigned(const uint8_t* a, int64_t k, void* prepared) {
  prepare_row<int16_t, -128>(a, k, static_cast<int16_t*>(prepared));
}

TARGET RowCode prepare_quantized(const FloatRow& x, int64_t k, void* prepared) {
  return prepare_quantized_row<int16_t, 0>(x, k, static_cast<int16_t*>(prepared));
}

TARGET float quantize(const FloatRow& x, int64_t k, int8_t* q) { return quantize_floats(x, k, q).scale; }

// Eight channels of a panel at a time. A lane of `sums` holds a channel's k0*k0 + k1*k1, its neighbor k2*k2 + k3*k3.
template <int R>
TARGET void tile_rows(const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  for (int n = 0; n < kPanel; n += 8) {
    __m256i sums[R][2];
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    const int8_t* weights = panel + kRowBytes + 4 * n;
    for (int64_t i = 0; i < ceil_div(k, 4); ++i, weights += kRowBytes) {
      const __m256i w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights)));
      const __m256i w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights + 16)));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        int64_t four;
        std::memcpy(&four, a + r * stride + 8 * i, sizeof four);
        const __m256i x = _mm256_set1_epi64x(four);
        sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(x, w0));
        sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(x, w1));
      }
    }
    for (int r = 0; r < R; ++r) {
      // hadd works within 128-bit halves: channels come out as 0 1 4 5 2 3 6 7.
      const __m256i pairs = _mm256_hadd_epi32(sums[r][0], sums[r][1]);
      const __m256i ordered = _mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + r * kPanel + n), ordered);
    }
  }
}

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  constexpr decltype(&tile_rows<1>) by_rows[] = {tile_rows<1>, tile_rows<2>, tile_rows<3>, tile_rows<4>};
  by_rows[rows - 1](static_cast<const char*>(a), stride, panel, k, acc);
}

TARGET void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                   const int8_t* panel) {
  finish_tile<8>(e, m, rows, n, cols, acc, panel);
}

void block(const Block& b, const Epilogue& epilogue) { block_of_tiles(kAvx2, b, epilogue); }

}  // namespace

const Path kAvx2 = {.tile_rows = kRows,
                    .activation_bytes = sizeof(int16_t),
                    .macs_per_nanosecond = 60,
                    .prepare = prepare,
                    .prepare_unsigned = prepare_unsigned,
                    .prepare_quantized = prepare_quantized,
                    .quantize = quantize,
                    .tile = tile,
                    .finish = finish,
                    .block = block};

}  // namespace pyprod::int8_gemm

#endif
