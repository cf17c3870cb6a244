// AVX-VNNI: vpdpbusd of AVX512-VNNI on 256-bit registers, for CPUs without AVX-512. Activations are q + 128 and
// accumulators start at the panel's first row, as in avx512_vnni.cpp.

#if defined(__x86_64__)

#include <immintrin.h>

#include "int8_gemm/rows.h"

#define TARGET __attribute__((target("avx2,avxvnni")))

namespace pyprod::int8_gemm {
namespace {

constexpr int kRows = 6;  // 6 rows x 2 vectors: 12 accumulators, 2 weights, 1 activation of 16 registers

TARGET void prepare(const int8_t* a, int64_t k, void* prepared) {
  prepare_row<uint8_t, 128>(a, k, static_cast<uint8_t*>(prepared));
}

TARGET void prepare_unsigned(const uint8_t* a, int64_t k, void* prepared) {
  prepare_row<uint8_t, 0>(a, k, static_cast<uint8_t*>(prepared));
}

TARGET RowCode prepare_quantized(const FloatRow& x, int64_t k, void* prepared) {
  return prepare_quantized_row<uint8_t, 128>(x, k, static_cast<uint8_t*>(prepared));
}

TARGET float quantize(const FloatRow& x, int64_t k, int8_t* q) { return quantize_floats(x, k, q).scale; }

// H vectors of 8 channels at a time. One row takes the whole panel (H = 4) to have enough accumulators in flight.
template <int R, int H>
TARGET void tile_rows(const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  for (int n = 0; n < kPanel; n += 8 * H) {
    __m256i sums[R][H];
    for (int r = 0; r < R; ++r)
      for (int h = 0; h < H; ++h)
        sums[r][h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 4 * n + 32 * h));
    const int8_t* weights = panel + kRowBytes + 4 * n;
    const int64_t words = ceil_div(k, 4);
#pragma GCC unroll 4
    for (int64_t i = 0; i < words; ++i, weights += kRowBytes) {
      __m256i w[H];
      for (int h = 0; h < H; ++h) w[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32 * h));
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        int32_t four;
        std::memcpy(&four, a + r * stride + 4 * i, sizeof four);
        const __m256i x = _mm256_set1_epi32(four);
        for (int h = 0; h < H; ++h) sums[r][h] = _mm256_dpbusd_avx_epi32(sums[r][h], x, w[h]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int h = 0; h < H; ++h)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + r * kPanel + n + 8 * h), sums[r][h]);
  }
}

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  constexpr decltype(&tile_rows<1, 2>) by_rows[] = {tile_rows<1, 4>, tile_rows<2, 4>, tile_rows<3, 2>,
                                                    tile_rows<4, 2>, tile_rows<5, 2>, tile_rows<6, 2>};
  by_rows[rows - 1](static_cast<const char*>(a), stride, panel, k, acc);
}

TARGET void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                   const int8_t* panel) {
  finish_tile<8>(e, m, rows, n, cols, acc, panel);
}

void block(const Block& b, const Epilogue& epilogue) { block_of_tiles(kAvxVnni, b, epilogue); }

}  // namespace

const Path kAvxVnni = {.tile_rows = kRows,
                       .activation_bytes = sizeof(uint8_t),
                       .flip = 0x80,
                       .macs_per_nanosecond = 150,
                       .prepare = prepare,
                       .prepare_unsigned = prepare_unsigned,
                       .prepare_quantized = prepare_quantized,
                       .quantize = quantize,
                       .tile = tile,
                       .finish = finish,
                       .block = block};

}  // namespace pyprod::int8_gemm

#endif
