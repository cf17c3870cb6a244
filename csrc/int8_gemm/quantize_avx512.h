#pragma once

#include <immintrin.h>

#include "int8_gemm/finish_avx512.h"

// quantize_row() of rows.h with AVX-512, 64 floats at a time; the same bits.

namespace pyprod::int8_gemm {

// 16 floats; those that `mask` leaves out are zeros and are not read.
PYPROD_AVX512_INLINE __m512 load_floats(const float* x, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, x); }

PYPROD_AVX512_INLINE __m512 load_floats(const BFloat16* x, __mmask16 mask) {
  const __m256i bits = _mm256_maskz_loadu_epi16(mask, x);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

PYPROD_AVX512_INLINE __m512 load_floats(const Float16* x, __mmask16 mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x));
}

// 16 of a row's values from i on.
template <class T, bool kMultiplier>
PYPROD_AVX512_INLINE __m512 load_values(const Values<T, kMultiplier>& values, int64_t i, __mmask16 mask) {
  const __m512 x = load_floats(values.x + i, mask);
  return kMultiplier ? x * load_floats(values.multiplier + i, mask) : x;
}

// Folds the magnitude_bits() of 64 values from i on, of which `mask` exist, into top[4].
template <class Values>
PYPROD_AVX512_INLINE void fold_magnitudes(const Values& values, int64_t i, __mmask64 mask, __m512i* top) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 x = load_values(values, i + 16 * j, static_cast<__mmask16>(mask >> (16 * j)));
    const __m512i bits = _mm512_castps_si512(x);
    top[j] = _mm512_max_epi32(top[j], _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
  }
}

// The least and the greatest of a row and 0.
struct Range {
  __m512 low = {}, high = {};
};

// The same of its values: a NaN leaves them as they are.
template <class Values>
PYPROD_AVX512_INLINE void fold_range(const Values& values, int64_t i, __mmask64 mask, Range& range) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 x = load_values(values, i + 16 * j, static_cast<__mmask16>(mask >> (16 * j)));
    range.low = _mm512_min_ps(x, range.low);
    range.high = _mm512_max_ps(x, range.high);
  }
}

// round_scaled() of 16 floats, and a zero point added.
PYPROD_AVX512_INLINE __m512i round_16(__m512 x, __m512 inverse, int32_t zero_point = 0) {
  const __m512 shifted = x * inverse + _mm512_set1_ps(12582912.0f);
  return _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4b400000 - zero_point));
}

// 64 integers as bytes, in their order: packing works within 128-bit lanes.
PYPROD_AVX512_INLINE __m512i pack_64(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)));
}

// round_scaled() of 64 values as bytes, each xor'ed with kFlip (0x80 adds 128).
template <uint8_t kFlip, class Values>
PYPROD_AVX512_INLINE __m512i quantize_64(const Values& values, int64_t i, __mmask64 mask, __m512 inverse,
                                         int32_t zero_point = 0) {
  __m512i q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j)
    q[j] = round_16(load_values(values, i + 16 * j, static_cast<__mmask16>(mask >> (16 * j))), inverse, zero_point);
  return _mm512_xor_si512(pack_64(q[0], q[1], q[2], q[3]), _mm512_set1_epi8(static_cast<char>(kFlip)));
}

template <uint8_t kFlip, bool kAsymmetric, class T, bool kMultiplier>
PYPROD_AVX512_INLINE RowCode quantize_row_avx512(const Values<T, kMultiplier>& values, int64_t k, void* q) {
  const int64_t whole = k / 64 * 64;
  const __mmask64 all = ~uint64_t{0}, rest = (uint64_t{1} << (k - whole)) - 1;
  __m512i top[4] = {};
  Range range;
  for (int64_t i = 0; i < whole; i += 64) {
    fold_magnitudes(values, i, all, top);
    if (kAsymmetric) fold_range(values, i, all, range);
  }
  if (rest != 0) fold_magnitudes(values, whole, rest, top);
  if (rest != 0 && kAsymmetric) fold_range(values, whole, rest, range);
  const __m512i largest = _mm512_max_epi32(_mm512_max_epi32(top[0], top[1]), _mm512_max_epi32(top[2], top[3]));
  const int32_t bits = _mm512_reduce_max_epi32(largest);
  RowCode code = {row_scale(bits)};
  if (kAsymmetric) code = asymmetric_code(_mm512_reduce_min_ps(range.low), _mm512_reduce_max_ps(range.high), bits);
  uint8_t* to = static_cast<uint8_t*>(q);
  if (!is_finite_magnitude(bits)) {
    std::memset(to, kFlip, static_cast<size_t>(k));
    return code;
  }
  const __m512 inverse = _mm512_set1_ps(1.0f / code.scale);
  for (int64_t i = 0; i < whole; i += 64)
    _mm512_storeu_si512(to + i, quantize_64<kFlip>(values, i, all, inverse, code.zero_point));
  if (rest != 0)
    _mm512_mask_storeu_epi8(to + whole, rest, quantize_64<kFlip>(values, whole, rest, inverse, code.zero_point));
  return code;
}

template <uint8_t kFlip, class Values>
PYPROD_AVX512_INLINE RowCode quantize_row_avx512_of(const Values& values, bool asymmetric, int64_t k, void* q) {
  if (asymmetric) return quantize_row_avx512<kFlip, true>(values, k, q);
  return quantize_row_avx512<kFlip, false>(values, k, q);
}

template <uint8_t kFlip, class T>
PYPROD_AVX512_INLINE RowCode quantize_row_avx512_of(const FloatRow& row, int64_t k, void* q) {
  const T* x = static_cast<const T*>(row.x);
  if (row.multiplier == nullptr) return quantize_row_avx512_of<kFlip>(Values<T>{x}, row.asymmetric, k, q);
  return quantize_row_avx512_of<kFlip>(Values<T, true>{x, row.multiplier}, row.asymmetric, k, q);
}

template <uint8_t kFlip>
PYPROD_AVX512_INLINE RowCode quantize_row_avx512(const FloatRow& row, int64_t k, void* q) {
  switch (row.type) {
    case Float::f32:
      return quantize_row_avx512_of<kFlip, float>(row, k, q);
    case Float::bf16:
      return quantize_row_avx512_of<kFlip, BFloat16>(row, k, q);
    default:
      return quantize_row_avx512_of<kFlip, Float16>(row, k, q);
  }
}

}  // namespace pyprod::int8_gemm
