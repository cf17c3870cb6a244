#pragma once

#include <bit>
#include <cstdint>

#include "common/inline.h"

// Activations, branch-free so that a loop over them vectorizes. NaN in, NaN out: each multiplies by its argument at the
// end. T is float, or a vector of floats of the compiler's vector extension (__m512): the same operations in the same
// order, so the same bits.

namespace pyprod {

enum class Activation : int { none, relu, gelu, gelu_tanh, silu };

template <class T>
struct BitsOf {  // unsigned integers that a T can be cast to and from
  typedef uint32_t type __attribute__((vector_size(sizeof(T))));
};

template <>
struct BitsOf<float> {
  using type = uint32_t;
};

// x, or the bound of x's sign where |x| is larger; a NaN gives a bound. On the bits, where g++ sees a minimum: float
// comparisons make it compute the rest twice under masks (SiLU and GELU over a row then take 1.5x as long).
template <class T>
PYPROD_INLINE T clamp_magnitude(T x, float bound) {
  using Bits = typename BitsOf<T>::type;
  const Bits bits = std::bit_cast<Bits>(x), magnitude = bits & 0x7fffffffu;
  const Bits limit = Bits{} + std::bit_cast<uint32_t>(bound);
  return std::bit_cast<T>((magnitude < limit ? magnitude : limit) | (bits & ~0x7fffffffu));
}

// e^x, error <= 2 ulp for x in [-87, 87]; beyond, the value at the bound (no infinity: sigmoid needs none).
// Cody-Waite reduction to |f| <= ln(2)/2 and a degree 6 Taylor polynomial (truncation 1.2e-7 * 2^-4 of the result).
template <class T>
PYPROD_INLINE T exp_clamped(T x) {
  using Bits = typename BitsOf<T>::type;
  x = clamp_magnitude(x, 87.0f);
  const T shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer part lands in the low bits
  const T n = shifted - 12582912.0f;
  const T f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  T p = T{} + 1.0f / 720.0f;
  p = p * f + 1.0f / 120.0f;
  p = p * f + 1.0f / 24.0f;
  p = p * f + 1.0f / 6.0f;
  p = p * f + 0.5f;
  p = p * f + 1.0f;
  p = p * f + 1.0f;
  const Bits power = (std::bit_cast<Bits>(shifted) + 127u) << 23;
  return p * std::bit_cast<T>(power);
}

template <class T>
PYPROD_INLINE T sigmoid(T x) {
  return 1.0f / (1.0f + exp_clamped(-x));
}

// erf(z) as the rational approximation z P(z^2) / Q(z^2) on [-4, 4] that Eigen and XLA use; |error| <= 4.5e-7 over all
// floats (checked densely against double precision). One division and no exponential.
template <class T>
PYPROD_INLINE T erf_rational(T z) {
  z = clamp_magnitude(z, 4.0f);
  const T s = z * z;
  T p = T{} - 2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  T q = T{} - 1.45660718464996e-05f;
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return clamp_magnitude(z * p / q, 1.0f);  // 1.0000002 at the end would leave -1e-7 x of a large negative x
}

// x * Phi(x); |error| <= 3e-7 |x|.
template <class T>
PYPROD_INLINE T gelu(T x) {
  const T half = 0.5f * x;
  return half + half * erf_rational(x * 0.70710678f);
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
template <class T>
PYPROD_INLINE T gelu_tanh(T x) {
  return x * sigmoid(x * (1.59576912f + 0.0713548163f * x * x));
}

template <class T>
PYPROD_INLINE T silu(T x) {
  return x * sigmoid(x);
}

template <Activation A, class T>
PYPROD_INLINE T activate(T x) {
  if constexpr (A == Activation::relu) return x < T{} ? T{} : x;
  if constexpr (A == Activation::gelu) return gelu(x);
  if constexpr (A == Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (A == Activation::silu) return silu(x);
  return x;
}

}  // namespace pyprod
