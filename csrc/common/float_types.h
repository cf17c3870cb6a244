#pragma once

#include <bit>
#include <cstdint>

#include "common/inline.h"

// Storage formats of floats and their exact conversions, branch-free so that loops over them vectorize on any target.
// Rounding is to nearest, ties to even, as in torch.

namespace pyprod {

enum class Float : int { f32, bf16, f16 };

constexpr int64_t item_size(Float type) { return type == Float::f32 ? 4 : 2; }

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

PYPROD_INLINE float to_float(float x) { return x; }

PYPROD_INLINE float to_float(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

PYPROD_INLINE float to_float(Float16 x) {
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
  // 2^112 moves the exponent's bias from 15 to 127, and makes a subnormal normal.
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite;
  return std::bit_cast<float>(bits | sign);
}

PYPROD_INLINE void from_float(float x, float& out) { out = x; }

PYPROD_INLINE void from_float(float x, BFloat16& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

PYPROD_INLINE void from_float(float x, Float16& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits & 0x80000000u, magnitude = bits ^ sign;
  // Normal: rebias and round. Subnormal: adding 0.5 lines the last kept bit up with the float's last bit.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? small : normal;
  out.bits = static_cast<uint16_t>((magnitude >= 0x47800000u ? special : finite) | (sign >> 16));
}

}  // namespace pyprod
