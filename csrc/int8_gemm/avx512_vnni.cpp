// AVX512-VNNI: vpdpbusd multiplies unsigned by signed bytes, so activations are kept as q + 128 and accumulators
// start at the panel's -128 * sum(w) (layout.h). The sum wraps modulo 2^32 on the way and is exact at the end.

#if defined(__x86_64__)

#include <immintrin.h>

#include "common/cpu_features.h"
#include "int8_gemm/rows.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

namespace pyprod::int8_gemm {
namespace {

constexpr int kRows = 8;

bool supported() {
  const CpuFeatures has = detect_cpu();
  return has.avx512f && has.avx512bw && has.avx512dq && has.avx512vl && has.avx512_vnni;
}

TARGET void prepare(const int8_t* a, int64_t k, void* prepared) {
  prepare_row<uint8_t, 128>(a, k, static_cast<uint8_t*>(prepared));
}

TARGET float prepare_quantized(Float type, const void* x, int64_t k, void* prepared) {
  return prepare_quantized_row<uint8_t, 128>(type, x, k, static_cast<uint8_t*>(prepared));
}

TARGET float quantize(Float type, const void* x, int64_t k, int8_t* q) {
  return quantize_row<int8_t, 0>(type, x, k, q);
}

// R rows with U independent sets of accumulators: vpdpbusd takes 4 cycles and starts one per cycle, so 2 * R * U >= 8
// keeps the unit busy.
template <int R, int U>
TARGET void tile_rows(const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  __m512i sums[U][R][2];
  for (int r = 0; r < R; ++r) {
    sums[0][r][0] = _mm512_loadu_si512(panel);
    sums[0][r][1] = _mm512_loadu_si512(panel + 64);
    for (int u = 1; u < U; ++u) sums[u][r][0] = sums[u][r][1] = _mm512_setzero_si512();
  }
  const int8_t* weights = panel + kRowBytes;
  int64_t words = ceil_div(k, 4);
  for (; words >= U; words -= U) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u, weights += kRowBytes, a += 4) {
      const __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + 64);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        int32_t four;
        std::memcpy(&four, a + r * stride, sizeof four);
        const __m512i x = _mm512_set1_epi32(four);
        sums[u][r][0] = _mm512_dpbusd_epi32(sums[u][r][0], x, w0);
        sums[u][r][1] = _mm512_dpbusd_epi32(sums[u][r][1], x, w1);
      }
    }
  }
  for (; words > 0; --words, weights += kRowBytes, a += 4) {
    const __m512i w0 = _mm512_loadu_si512(weights), w1 = _mm512_loadu_si512(weights + 64);
    for (int r = 0; r < R; ++r) {
      int32_t four;
      std::memcpy(&four, a + r * stride, sizeof four);
      const __m512i x = _mm512_set1_epi32(four);
      sums[0][r][0] = _mm512_dpbusd_epi32(sums[0][r][0], x, w0);
      sums[0][r][1] = _mm512_dpbusd_epi32(sums[0][r][1], x, w1);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int h = 0; h < 2; ++h) {
      for (int u = 1; u < U; ++u) sums[0][r][h] = _mm512_add_epi32(sums[0][r][h], sums[u][r][h]);
      _mm512_storeu_si512(acc + r * kPanel + 16 * h, sums[0][r][h]);
    }
  }
}

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  constexpr decltype(&tile_rows<1, 4>) by_rows[] = {tile_rows<1, 4>, tile_rows<2, 2>, tile_rows<3, 2>, tile_rows<4, 1>,
                                                    tile_rows<5, 1>, tile_rows<6, 1>, tile_rows<7, 1>, tile_rows<8, 1>};
  by_rows[rows - 1](static_cast<const char*>(a), stride, panel, k, acc);
}

TARGET void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                   const int8_t* panel) {
  finish_tile(e, m, rows, n, cols, acc, panel);
}

void block(const Block& b, const Epilogue& epilogue) { block_of_tiles(kAvx512Vnni, b, epilogue); }

}  // namespace

const Path kAvx512Vnni = {.name = "avx512_vnni",
                          .supported = supported,
                          .tile_rows = kRows,
                          .activation_bytes = sizeof(uint8_t),
                          .prepare = prepare,
                          .prepare_quantized = prepare_quantized,
                          .quantize = quantize,
                          .tile = tile,
                          .finish = finish,
                          .block = block};

}  // namespace pyprod::int8_gemm

#endif
