#pragma once

#include <bit>
#include <cstdint>

#include "common/inline.h"

// Activations on one float, branch-free so that a loop over them vectorizes. NaN in, NaN out: each multiplies by its
// argument at the end.

namespace pyprod {

enum class Activation : int { none, relu, gelu, gelu_tanh, silu };

// x, or the bound of x's sign where |x| is larger; a NaN gives a bound. On the bits, where g++ sees a minimum: float
// comparisons make it compute the rest twice under masks (SiLU and GELU over a row then take 1.5x as long).
PYPROD_INLINE float clamp_magnitude(float x, float bound) {
  const int32_t bits = std::bit_cast<int32_t>(x), magnitude = bits & 0x7fffffff, limit = std::bit_cast<int32_t>(bound);
  return std::bit_cast<float>((magnitude < limit ? magnitude : limit) | (bits & ~0x7fffffff));
}

// e^x, error <= 2 ulp for x in [-87, 87]; beyond, the value at the bound (no infinity: sigmoid needs none).
// Cody-Waite reduction to |f| <= ln(2)/2 and a degree 6 Taylor polynomial (truncation 1.2e-7 * 2^-4 of the result).
PYPROD_INLINE float exp_clamped(float x) {
  x = clamp_magnitude(x, 87.0f);
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

// erf(z) as the rational approximation z P(z^2) / Q(z^2) on [-4, 4] that Eigen and XLA use; |error| <= 4.5e-7 over all
// floats (checked densely against double precision). One division and no exponential.
PYPROD_INLINE float erf_rational(float z) {
  z = clamp_magnitude(z, 4.0f);
  const float s = z * z;
  float p = -2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return clamp_magnitude(z * p / q, 1.0f);  // 1.0000002 at the end would leave -1e-7 x of a large negative x
}

// x * Phi(x); |error| <= 3e-7 |x|.
PYPROD_INLINE float gelu(float x) {
  const float half = 0.5f * x;
  return half + half * erf_rational(x * 0.70710678f);
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
