#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "common/quantize.h"
#include "int8_gemm/layout.h"

namespace pyprod::int8_attention {

using int8_gemm::kPanel;

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
// The largest weight whose bytes 127 * 256 + 127 are both signed; a weight of 8 bits would lose the tail of flat rows.
inline constexpr float kTopWeight = 32639.0f;

// 2^f on [-1/2, 1/2], minimax: relative error 7.5e-5, a hundredth of what int8 queries and keys cost.
inline constexpr float kPolynomial[] = {9.99928057e-1f, 6.93260968e-1f, 2.42611125e-1f, 5.51716611e-2f};

// 2^t * kTopWeight, rounded, for t <= 0; 0 below -20. The bound is compared as an integer: a float ternary is
// vectorized as masked branches.
PYPROD_INLINE int32_t weight_of(float t) {
  constexpr uint32_t kLeast = std::bit_cast<uint32_t>(-20.0f);
  const uint32_t bits = std::bit_cast<uint32_t>(t);
  t = std::bit_cast<float>(bits < kLeast ? bits : kLeast);
  const float shifted = t + 12582912.0f;  // 1.5 * 2^23: the integer part lands in the low bits
  const float f = t - (shifted - 12582912.0f);
  const float p = ((kPolynomial[3] * f + kPolynomial[2]) * f + kPolynomial[1]) * f + kPolynomial[0];
  const uint32_t power = std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23);
  return round_scaled(std::bit_cast<float>(power), kTopWeight);
}

// The largest of a panel's lanes, found as integers: floats in their order but for the sign.
PYPROD_INLINE float maximum(const float* top) {
  int32_t largest = std::numeric_limits<int32_t>::min();
  for (int j = 0; j < kPanel; ++j) {
    const int32_t bits = std::bit_cast<int32_t>(top[j]), key = bits ^ ((bits >> 31) & 0x7fffffff);
    largest = key > largest ? key : largest;
  }
  return std::bit_cast<float>(largest ^ ((largest >> 31) & 0x7fffffff));
}

PYPROD_INLINE int32_t largest_magnitude(const float* x, int64_t count) {
  int32_t top = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t bits = magnitude_bits(x[i]);
    top = bits > top ? bits : top;
  }
  return top;
}

// The loops that take the time; an instruction set may have its own, with the same bits.
struct Loops {
  // Quantizes up to 32 rows as common/quantize.h says; a row that is not finite has scale NaN and any q. In three
  // passes: maximum, division and rounding of one row wait for each other, those of many rows don't.
  PYPROD_INLINE static void quantize_rows(const float* const* x, int rows, int64_t depth, int8_t* q, int64_t stride,
                                          float* scale) {
    int32_t top[kPanel];
    for (int r = 0; r < rows; ++r) top[r] = largest_magnitude(x[r], depth);
    float inverse[kPanel];
    for (int r = 0; r < rows; ++r) {
      scale[r] = row_scale(top[r]);
      inverse[r] = 1.0f / scale[r];
    }
    for (int r = 0; r < rows; ++r, q += stride) {
      for (int64_t d = 0; d < depth; ++d) q[d] = static_cast<int8_t>(round_scaled(x[r][d], inverse[r]));
    }
  }

  // The scores of a row, whose sums over each panel of keys lie `stride` apart; returns the largest.
  PYPROD_INLINE static float score(const int32_t* acc, int64_t stride, int64_t panels, float q_scale,
                                   const float* k_scale, const float* bias, float* scores) {
    float top[kPanel];
    for (int j = 0; j < kPanel; ++j) top[j] = -kInfinity;
    for (int64_t p = 0; p < panels; ++p, acc += stride, k_scale += kPanel, bias += kPanel, scores += kPanel) {
      for (int j = 0; j < kPanel; ++j) {
        const float score = static_cast<float>(acc[j]) * (q_scale * k_scale[j]) + bias[j];
        scores[j] = score;
        top[j] = score > top[j] ? score : top[j];
      }
    }
    return maximum(top);
  }

  // The weights of `count` scores, a multiple of 32, as bytes: weight = 256 * high + low. Returns their sum.
  PYPROD_INLINE static int32_t weigh(const float* scores, int64_t count, float maximum, int8_t* high, int8_t* low) {
    int32_t total = 0;
    for (int64_t first = 0; first < count; first += kPanel) {
      for (int64_t j = first; j < first + kPanel; ++j) {
        const int32_t weight = weight_of(scores[j] - maximum);
        high[j] = static_cast<int8_t>((weight + 128) >> 8);
        low[j] = static_cast<int8_t>(weight);  // modulo 256, in -128..127
        total += weight;
      }
    }
    return total;
  }
};

}  // namespace pyprod::int8_attention
