#pragma once

// "The ABI of a vector argument depends on the target": activate() is always inlined and has none. GCC looks at this
// where the template stands and at the end of the file.
#pragma GCC diagnostic ignored "-Wpsabi"

#include <immintrin.h>

#include "int8_gemm/rows.h"

// Path::finish with AVX-512: sums, dequantization and activation stay in registers, and float32 outputs go straight to
// memory. Same operations in the same order as finish_tile(), so the same bits.

namespace pyprod::int8_gemm {

#define PYPROD_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#define PYPROD_AVX512_INLINE PYPROD_AVX512 PYPROD_INLINE

// What a panel's two vectors of 16 channels need: computed once for the rows of a call.
struct Channels {
  __m512 scale[2], bias[2];
  __m512i offset[2];
  __mmask16 mask[2];
};

PYPROD_AVX512_INLINE Channels load_channels(const Epilogue& e, int64_t n, int cols, const int8_t* panel) {
  Channels c;
  const uint32_t columns = cols == kPanel ? ~0u : (1u << cols) - 1;
  for (int h = 0; h < 2; ++h) {
    c.mask[h] = static_cast<__mmask16>(columns >> (16 * h));
    c.scale[h] = _mm512_maskz_loadu_ps(c.mask[h], e.col_scale + n + 16 * h);
    c.bias[h] = e.bias != nullptr ? _mm512_maskz_loadu_ps(c.mask[h], e.bias + n + 16 * h) : _mm512_setzero_ps();
    c.offset[h] = _mm512_setzero_si512();
  }
  if (e.zero_point != 0) {
    alignas(64) int32_t sums[kPanel];
    zero_point_sums(e.zero_point, panel, sums);
    for (int h = 0; h < 2; ++h) c.offset[h] = _mm512_load_si512(sums + 16 * h);
  }
  return c;
}

template <Activation A>
PYPROD_AVX512_INLINE __m512 dequantize(const Channels& c, int half, const int32_t* acc, __m512 row_scale) {
  const __m512i sums = _mm512_sub_epi32(_mm512_loadu_si512(acc + 16 * half), c.offset[half]);
  // Not _mm512_cvtepi32_ps: GCC 12 takes its undefined operand for a bug of ours.
  const __m512 sum = __builtin_convertvector(reinterpret_cast<__v16si>(sums), __m512);
  return activate<A>(sum * (row_scale * c.scale[half]) + c.bias[half]);
}

template <Activation A>
PYPROD_AVX512_INLINE void finish_rows(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                                      const int8_t* panel) {
  const Channels c = load_channels(e, n, cols, panel);
  const bool floats = e.store == Store::floats && e.type == Float::f32;
  for (int r = 0; r < rows; ++r, acc += kPanel) {
    const __m512 row_scale = _mm512_set1_ps(e.row_scale != nullptr ? e.row_scale[m + r] : e.scale);
    __m512 y[2] = {dequantize<A>(c, 0, acc, row_scale), dequantize<A>(c, 1, acc, row_scale)};
    if (!floats) {
      alignas(64) float row[kPanel];
      for (int h = 0; h < 2; ++h) _mm512_store_ps(row + 16 * h, y[h]);
      store_tile(e, m + r, 1, n, cols, row);
      continue;
    }
    const int64_t at = (m + r) * e.out_stride + n;
    for (int h = 0; h < 2; ++h) {
      if (e.residual != nullptr) {
        y[h] += _mm512_maskz_loadu_ps(c.mask[h], static_cast<const float*>(e.residual) + at + 16 * h);
      }
      _mm512_mask_storeu_ps(static_cast<float*>(e.out) + at + 16 * h, c.mask[h], y[h]);
    }
  }
}

PYPROD_AVX512_INLINE void finish_avx512(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                                        const int8_t* panel) {
  if (e.store == Store::sums) return store_sums(e, m, rows, n, cols, acc);
  switch (e.activation) {
    case Activation::none:
      return finish_rows<Activation::none>(e, m, rows, n, cols, acc, panel);
    case Activation::relu:
      return finish_rows<Activation::relu>(e, m, rows, n, cols, acc, panel);
    case Activation::gelu:
      return finish_rows<Activation::gelu>(e, m, rows, n, cols, acc, panel);
    case Activation::gelu_tanh:
      return finish_rows<Activation::gelu_tanh>(e, m, rows, n, cols, acc, panel);
    case Activation::silu:
      return finish_rows<Activation::silu>(e, m, rows, n, cols, acc, panel);
  }
}

}  // namespace pyprod::int8_gemm
