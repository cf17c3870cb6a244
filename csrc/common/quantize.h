#pragma once

#include <bit>
#include <cfloat>
#include <cstdint>

#include "common/float_types.h"
#include "common/inline.h"

// Symmetric dynamic quantization of a row: scale = max(max|x| / 127, FLT_MIN), q = round(x * (1 / scale)), ties to
// even. FLT_MIN keeps 1 / scale finite; a row of zeros gets it. A row that holds a NaN or an infinity has no scale: it
// becomes scale NaN and q = 0, so that NaN reaches the whole output row instead of being hidden by a clamp.
//
// Asymmetric: over [low, high], the row's least and greatest and 0, scale = max(high / 254 - low / 254, FLT_MIN),
// zero_point = round(-low * (1 / scale)) - 128, q = round(x * (1 / scale)) + zero_point. 254 and not 255, or both
// roundings together could leave int8.

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

// How a row is quantized: a value is scale * (q - zero_point).
struct RowCode {
  float scale;
  int32_t zero_point = 0;
};

// Rounds x * inverse, |x * inverse| < 2^22. Adding 1.5 * 2^23 leaves the integer in the low bits.
PYPROD_INLINE int32_t round_scaled(float x, float inverse) {
  return std::bit_cast<int32_t>(x * inverse + 12582912.0f) - 0x4b400000;
}

// Of a row whose values lie in [low, high], which holds 0, and whose largest magnitude_bits() is `top`.
PYPROD_INLINE RowCode asymmetric_code(float low, float high, int32_t top) {
  if (!is_finite_magnitude(top)) return {row_scale(top)};
  const float ratio = high / 254.0f - low / 254.0f;  // high - low may not be finite
  const float scale = ratio > FLT_MIN ? ratio : FLT_MIN;
  return {scale, round_scaled(-low, 1.0f / scale) - 128};
}

// A row of floats that is quantized: of a type that is known only at run time, each times its multiplier.
struct FloatRow {
  Float type;
  const void* x;
  const float* multiplier = nullptr;  // [k], or null
  bool asymmetric = false;
};

// The same as quantize_values() reads it.
template <class T, bool kMultiplier = false>
struct Values {
  const T* x;
  const float* multiplier = nullptr;
  PYPROD_INLINE float at(int64_t i) const { return kMultiplier ? to_float(x[i]) * multiplier[i] : to_float(x[i]); }
};

// Quantizes values.at(0) .. at(k - 1), whose largest magnitude_bits() is `top`, each stored with kOffset added.
template <int kOffset, class From, class To>
PYPROD_INLINE void quantize_by(RowCode code, const From& values, int64_t k, int32_t top, To* q) {
  if (!is_finite_magnitude(top)) {
    for (int64_t i = 0; i < k; ++i) q[i] = static_cast<To>(kOffset);
    return;
  }
  const float inverse = 1.0f / code.scale;
  const int32_t offset = code.zero_point + kOffset;
  for (int64_t i = 0; i < k; ++i) q[i] = static_cast<To>(round_scaled(values.at(i), inverse) + offset);
}

// The same, symmetric; returns the scale.
template <int kOffset = 0, class From, class To>
PYPROD_INLINE float quantize_values(const From& values, int64_t k, int32_t top, To* q) {
  const float scale = row_scale(top);
  quantize_by<kOffset>({scale}, values, k, top, q);
  return scale;
}

// Quantizes k values.
template <int kOffset, class From, class To>
PYPROD_INLINE RowCode quantize_all(const From& values, int64_t k, bool asymmetric, To* q) {
  int32_t top = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int32_t bits = magnitude_bits(values.at(i));
    top = bits > top ? bits : top;
  }
  if (!asymmetric) return {quantize_values<kOffset>(values, k, top, q)};
  float low = 0, high = 0;
  for (int64_t i = 0; i < k; ++i) {
    const float value = values.at(i);
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  const RowCode code = asymmetric_code(low, high, top);
  quantize_by<kOffset>(code, values, k, top, q);
  return code;
}

template <int kOffset, class T, class To>
PYPROD_INLINE RowCode quantize_floats_of(const FloatRow& row, int64_t k, To* q) {
  const T* x = static_cast<const T*>(row.x);
  if (row.multiplier == nullptr) return quantize_all<kOffset>(Values<T>{x}, k, row.asymmetric, q);
  return quantize_all<kOffset>(Values<T, true>{x, row.multiplier}, k, row.asymmetric, q);
}

// Quantizes k floats.
template <int kOffset = 0, class To>
PYPROD_INLINE RowCode quantize_floats(const FloatRow& row, int64_t k, To* q) {
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
