#pragma once

#include <bit>
#include <cfloat>
#include <cstdint>

#include "common/float_types.h"
#include "common/inline.h"

// Symmetric dynamic quantization of a row: scale = max(max|x| / 127, FLT_MIN), q = round(x * (1 / scale)), ties to
// even. FLT_MIN keeps 1 / scale finite; a row of zeros gets it. A row that holds a NaN or an infinity has no scale: it
// becomes scale NaN and q = 0, so that NaN reaches the whole output row instead of being hidden by a clamp.

namespace pyprod {

// |x| as an integer: floats without sign order like their bits, and infinity and NaN come last.
PYPROD_INLINE int32_t magnitude_bits(float x) { return std::bit_cast<int32_t>(x) & 0x7fffffff; }

PYPROD_INLINE bool is_finite_magnitude(int32_t bits) { return bits < 0x7f800000; }

// Scale of a row whose largest magnitude_bits() is `top`.
PYPROD_INLINE float row_scale(int32_t top) {
  if (!is_finite_magnitude(top)) return std::bit_cast<float>(0x7fc00000);
  const float ratio = std::bit_cast<float>(top) / 127.0f;
  return ratio > FLT_MIN ? ratio : FLT_MIN;
}

// Rounds x * inverse, |x * inverse| < 2^22. Adding 1.5 * 2^23 leaves the integer in the low bits.
PYPROD_INLINE int32_t round_scaled(float x, float inverse) {
  return std::bit_cast<int32_t>(x * inverse + 12582912.0f) - 0x4b400000;
}

// A row of floats that is quantized: of a type that is known only at run time, each times its multiplier.
struct FloatRow {
  Float type;
  const void* x;
  const float* multiplier = nullptr;  // [k], or null
};

// The same as quantize_values() reads it.
template <class T, bool kMultiplier = false>
struct Values {
  const T* x;
  const float* multiplier = nullptr;
  PYPROD_INLINE float at(int64_t i) const { return kMultiplier ? to_float(x[i]) * multiplier[i] : to_float(x[i]); }
};

// Quantizes values.at(0) .. at(k - 1), whose largest magnitude_bits() is `top`, each stored with kOffset added; returns
// their scale.
template <int kOffset = 0, class From, class To>
PYPROD_INLINE float quantize_values(const From& values, int64_t k, int32_t top, To* q) {
  const float scale = row_scale(top);
  if (!is_finite_magnitude(top)) {
    for (int64_t i = 0; i < k; ++i) q[i] = static_cast<To>(kOffset);
    return scale;
  }
  const float inverse = 1.0f / scale;
  for (int64_t i = 0; i < k; ++i) q[i] = static_cast<To>(round_scaled(values.at(i), inverse) + kOffset);
  return scale;
}

// Quantizes k values.
template <int kOffset, class From, class To>
PYPROD_INLINE float quantize_all(const From& values, int64_t k, To* q) {
  int32_t top = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int32_t bits = magnitude_bits(values.at(i));
    top = bits > top ? bits : top;
  }
  return quantize_values<kOffset>(values, k, top, q);
}

template <int kOffset, class T, class To>
PYPROD_INLINE float quantize_floats_of(const FloatRow& row, int64_t k, To* q) {
  const T* x = static_cast<const T*>(row.x);
  if (row.multiplier == nullptr) return quantize_all<kOffset>(Values<T>{x}, k, q);
  return quantize_all<kOffset>(Values<T, true>{x, row.multiplier}, k, q);
}

// Quantizes k floats.
template <int kOffset = 0, class To>
PYPROD_INLINE float quantize_floats(const FloatRow& row, int64_t k, To* q) {
  switch (row.type) {
    case Float::f32:
      return quantize_floats_of<kOffset, float>(row, k, q);
    case Float::bf16:
      return quantize_floats_of<kOffset, BFloat16>(row, k, q);
    default:
      return quantize_floats_of<kOffset, Float16>(row, k, q);
  }
}

}  // namespace pyprod
