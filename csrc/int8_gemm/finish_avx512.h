#pragma once

// "The ABI of a vector argument depends on the target": activate() is always inlined and has none. GCC looks at this
// where the template stands and at the end of the file.
#pragma GCC diagnostic ignored "-Wpsabi"
// GCC 12 takes the undefined operands inside its own AVX-512 intrinsics for variables of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

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
  __m512i weights[2], offset[2];  // sums of them, and that times a zero point
  __mmask16 mask[2];
};

PYPROD_AVX512_INLINE void shift(Channels& c, int32_t zero_point) {
  for (int h = 0; h < 2; ++h) c.offset[h] = _mm512_mullo_epi32(c.weights[h], _mm512_set1_epi32(zero_point));
}

PYPROD_AVX512_INLINE Channels load_channels(const Epilogue& e, int64_t n, int cols, const int8_t* panel) {
  Channels c;
  const uint32_t columns = cols == kPanel ? ~0u : (1u << cols) - 1;
  for (int h = 0; h < 2; ++h) {
    c.mask[h] = static_cast<__mmask16>(columns >> (16 * h));
    c.scale[h] = _mm512_maskz_loadu_ps(c.mask[h], e.col_scale + n + 16 * h);
    c.bias[h] = e.bias != nullptr ? _mm512_maskz_loadu_ps(c.mask[h], e.bias + n + 16 * h) : _mm512_setzero_ps();
    c.weights[h] = c.offset[h] = _mm512_setzero_si512();
  }
  if (has_zero_points(e)) {
    alignas(64) int32_t sums[kPanel];
    weight_sums(panel, sums);
    for (int h = 0; h < 2; ++h) c.weights[h] = _mm512_load_si512(sums + 16 * h);
    shift(c, e.zero_point);
  }
  return c;
}

template <Activation A>
PYPROD_AVX512_INLINE __m512 dequantize(const Channels& c, int half, __m512i sums, __m512 row_scale) {
  const __m512i shifted = _mm512_sub_epi32(sums, c.offset[half]);
  return activate<A>(_mm512_cvtepi32_ps(shifted) * (row_scale * c.scale[half]) + c.bias[half]);
}

// quantize_output() of rows.h: the maximum comes first and takes `low` for a NaN.
PYPROD_AVX512_INLINE __m128i quantize_vector(const Epilogue& e, __m512 y) {
  const int32_t least = e.store == Store::int8 ? -128 : 0;
  const float low = static_cast<float>(least - e.out_zero_point), high = low + 255.0f;
  const __m512 value = _mm512_max_ps(y * _mm512_set1_ps(e.out_inverse_scale), _mm512_set1_ps(low));
  const __m512 shifted = _mm512_min_ps(value, _mm512_set1_ps(high)) + _mm512_set1_ps(12582912.0f);
  const __m512i offset = _mm512_set1_epi32(e.out_zero_point - 0x4b400000);  // round_scaled() and the zero point
  return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_castps_si512(shifted), offset));
}

// How a row of two vectors is stored: as float32, as bytes, or by the plain code.
enum class Row { f32, bytes, other };

template <Activation A, Row kRow>
PYPROD_AVX512_INLINE void finish_rows(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                                      const int8_t* panel) {
  Channels c = load_channels(e, n, cols, panel);
  for (int r = 0; r < rows; ++r, acc += kPanel) {
    if (e.row_zero_point != nullptr) shift(c, e.row_zero_point[m + r]);
    const __m512 row_scale = _mm512_set1_ps(e.row_scale != nullptr ? e.row_scale[m + r] : e.scale);
    __m512 y[2] = {dequantize<A>(c, 0, _mm512_loadu_si512(acc), row_scale),
                   dequantize<A>(c, 1, _mm512_loadu_si512(acc + 16), row_scale)};
    if constexpr (kRow == Row::other) {
      alignas(64) float row[kPanel];
      for (int h = 0; h < 2; ++h) _mm512_store_ps(row + 16 * h, y[h]);
      store_tile(e, m + r, 1, n, cols, row);
    } else {
      for (int h = 0; h < 2; ++h) {
        const int64_t at = (m + r) * e.out_stride + n + 16 * h;
        if (e.residual != nullptr) {
          y[h] += _mm512_maskz_loadu_ps(c.mask[h], static_cast<const float*>(e.residual) + at);
        }
        if constexpr (kRow == Row::f32) {
          _mm512_mask_storeu_ps(static_cast<float*>(e.out) + at, c.mask[h], y[h]);
        } else {
          _mm_mask_storeu_epi8(static_cast<int8_t*>(e.out) + at, c.mask[h], quantize_vector(e, y[h]));
        }
      }
    }
  }
}

template <Activation A>
PYPROD_AVX512_INLINE void finish_rows(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                                      const int8_t* panel) {
  if (e.store != Store::floats) return finish_rows<A, Row::bytes>(e, m, rows, n, cols, acc, panel);
  if (e.type == Float::f32) return finish_rows<A, Row::f32>(e, m, rows, n, cols, acc, panel);
  finish_rows<A, Row::other>(e, m, rows, n, cols, acc, panel);
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
