#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

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

template <class T>
PYPROD_INLINE T magnitude(T x) {
  return std::bit_cast<T>(std::bit_cast<typename BitsOf<T>::type>(x) & 0x7fffffffu);
}

// The smaller of a and the bound, for a >= 0; a NaN gives the bound. On the bits, where g++ sees a minimum: float
// comparisons make it compute the rest twice under masks (SiLU and GELU over a row then take 1.5x as long).
template <class T>
PYPROD_INLINE T least(T a, float bound) {
  using Bits = typename BitsOf<T>::type;
  const Bits bits = std::bit_cast<Bits>(a), limit = Bits{} + std::bit_cast<uint32_t>(bound);
  return std::bit_cast<T>(bits < limit ? bits : limit);
}

// x, or the bound of x's sign where |x| is larger; a NaN gives a bound.
template <class T>
PYPROD_INLINE T clamp_magnitude(T x, float bound) {
  using Bits = typename BitsOf<T>::type;
  const Bits sign = std::bit_cast<Bits>(x) & 0x80000000u;
  return std::bit_cast<T>(std::bit_cast<Bits>(least(magnitude(x), bound)) | sign);
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

// One of 16 numbers for each element; of an index only the last four bits count. Registers of a vector are looked up by
// a permutation or two, where a loop over a table in memory would not be vectorized.
template <class T>
PYPROD_INLINE T look_up(const float (&table)[16], typename BitsOf<T>::type index) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return table[index % 16];
  } else {
    constexpr int kLanes = sizeof(T) / sizeof(float);
    T found[16 / kLanes];
    std::memcpy(found, table, sizeof table);
    if constexpr (kLanes == 16) {
      return __builtin_shuffle(found[0], index);
    } else {
      static_assert(kLanes == 8);
      return __builtin_shuffle(found[0], found[1], index);
    }
  }
}

// erf(a / sqrt 2) for a in [0, 5.52]: a polynomial of degree 4 around each multiple of 0.368, the last of them 1;
// |error| <= 3.4e-7, rounding included (checked densely against double precision). A rational approximation, as Eigen
// and XLA use, takes twice the time with AVX-512: 27 operations and a division for 15 and five permutations.
template <class T>
PYPROD_INLINE T erf_of_quantile(T a) {
  static constexpr float kPieces[5][16] = {
      {0.0f, 0.28712675f, 0.538269281f, 0.73040688f, 0.858979106f, 0.934231758f, 0.97275573f, 0.990004957f,
       0.996760011f, 0.999073684f, 0.999766767f, 0.999948323f, 0.999989927f, 0.999998271f, 0.999999762f, 1.0f},
      {0.293618917f, 0.274396181f, 0.223954618f, 0.15963532f, 0.0993764699f, 0.0540283583f, 0.0256531686f,
       0.0106374659f, 0.00385220605f, 0.0012182896f, 0.000336477708f, 8.11560676e-05f, 1.70937856e-05f, 3.14413296e-06f,
       5.05011201e-07f, 0.0f},
      {0.0f, -0.0185795855f, -0.0303283017f, -0.0324271582f, -0.0269155875f, -0.0182917621f, -0.0104222717f,
       -0.00504216272f, -0.0020868741f, -0.000742528995f, -0.000227881872f, -6.04661291e-05f, -1.38956048e-05f,
       -2.76935816e-06f, -4.79139032e-07f, 0.0f},
      {-0.00658534141f, -0.00532581238f, -0.00231612893f, 0.000766972487f, 0.00259195478f, 0.00289399456f,
       0.00224071625f, 0.00135677995f, 0.000671474671f, 0.000277526648f, 9.69781904e-05f, 2.88737247e-05f,
       7.36313405e-06f, 1.61423668e-06f, 3.05075559e-07f, 0.0f},
      {0.0f, 0.000595822465f, 0.00083570584f, 0.000649172289f, 0.000254091749f, -7.70261395e-05f, -0.000218577799f,
       -0.000206173718f, -0.000133601963f, -6.71456801e-05f, -2.73892056e-05f, -9.27505971e-06f, -2.64201526e-06f,
       -6.38398035e-07f, -1.31611074e-07f, 0.0f}};
  const T t = a * 2.71739125f;
  const T shifted = t + 8388608.0f;  // 2^23: the nearest integer lands in the low bits
  const auto piece = std::bit_cast<typename BitsOf<T>::type>(shifted);
  const T f = t - (shifted - 8388608.0f);
  T p = look_up<T>(kPieces[4], piece);
  p = p * f + look_up<T>(kPieces[3], piece);
  p = p * f + look_up<T>(kPieces[2], piece);
  p = p * f + look_up<T>(kPieces[1], piece);
  return p * f + look_up<T>(kPieces[0], piece);
}

// x * Phi(x) = (x + |x| erf(|x| / sqrt 2)) / 2; |error| <= 2e-7 |x|.
template <class T>
PYPROD_INLINE T gelu(T x) {
  const T half = 0.5f * x;
  return half + magnitude(half) * erf_of_quantile(least(magnitude(x), 5.52f));
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

// activate() of `count` floats in place, vectors of `kLanes` at a time where the compiler doesn't find them by itself.
template <Activation A, int kLanes>
PYPROD_INLINE void activate_all(float* y, int64_t count) {
  int64_t i = 0;
  if constexpr (A == Activation::gelu && kLanes > 1) {
    typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
    for (; i + kLanes <= count; i += kLanes) {
      Vector some;
      std::memcpy(&some, y + i, sizeof some);
      some = activate<A>(some);
      std::memcpy(y + i, &some, sizeof some);
    }
  }
  for (; i < count; ++i) y[i] = activate<A>(y[i]);
}

}  // namespace pyprod
