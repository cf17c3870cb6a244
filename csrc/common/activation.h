#pragma once

#include <bit>
#include <cstdint>

#include "common/inline.h"

// Activations on one float, branch-free so that a loop over them vectorizes. NaN in, NaN out.

namespace pyprod {

enum class Activation : int { none, relu, gelu, gelu_tanh, silu };

// e^x, error <= 2 ulp for x in [-87, 88]; beyond, the value at the bound (no infinity: sigmoid needs none).
// Cody-Waite reduction to |f| <= ln(2)/2 and a degree 6 Taylor polynomial (truncation 1.2e-7 * 2^-4 of the result).
PYPROD_INLINE float exp_clamped(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer part lands in the low bits
  const float n = shifted - 12582912.0f;
  const float f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 720.0f;
  p = p * f + 1.0f / 120.0f;
  p = p * f + 1.0f / 24.0f;
  p = p * f + 1.0f / 6.0f;
  p = p * f + 0.5f;
  p = p * f + 1.0f;
  p = p * f + 1.0f;
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  return p * std::bit_cast<float>(power);
}

PYPROD_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_clamped(-x)); }

// x * Phi(x) with erf of Abramowitz & Stegun 7.1.26: |error of erf| <= 1.5e-7, so |error| <= 0.75e-7 |x| + rounding.
PYPROD_INLINE float gelu(float x) {
  const float z = x * 0.70710678f, magnitude = z < 0.0f ? -z : z;
  const float t = 1.0f / (1.0f + 0.3275911f * magnitude);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = p * t * exp_clamped(-magnitude * magnitude);  // 1 - erf(|z|)
  const float half = 0.5f * x;
  return x < 0.0f ? half * tail : half * (2.0f - tail);
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
PYPROD_INLINE float gelu_tanh(float x) { return x * sigmoid(x * (1.59576912f + 0.0713548163f * x * x)); }

PYPROD_INLINE float silu(float x) { return x * sigmoid(x); }

template <Activation A>
PYPROD_INLINE float activate(float x) {
  if constexpr (A == Activation::relu) return x < 0.0f ? 0.0f : x;
  if constexpr (A == Activation::gelu) return gelu(x);
  if constexpr (A == Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (A == Activation::silu) return silu(x);
  return x;
}

}  // namespace pyprod
