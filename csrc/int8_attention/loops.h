#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/quantize.h"
#include "int8_gemm/layout.h"

namespace pyprod::int8_attention {

using int8_gemm::kPanel;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Scores are in 2048ths of an octave: 2048 more are twice the weight.
inline constexpr int kOctaveBits = 11;
inline constexpr float kScoreUnit = 1.44269504f * (1 << kOctaveBits);  // log2 e
// The largest weight whose bytes 127 * 256 + 127 are both signed; a weight of 8 bits would lose the tail of flat rows.
inline constexpr int kTopWeight = 32639;
// kTopWeight * 2^-x for x in [0, 1): c0 - x (c1 - x (c2 - x c3)), x and products in 2^-15.
inline constexpr int kPolynomial[] = {kTopWeight, 22569, 7533, 1285};

// x * y in 2^-15, rounded.
PYPROD_INLINE int32_t scaled(int32_t x, int32_t y) { return (x * y + (1 << 14)) >> 15; }

// The weight of a score that is `distance` >= 0 below the largest, in integers of 16 bits, of which a vector holds
// twice as many as floats. Relative error 2.9e-4 before it is rounded, 1.7e-4 of it from rounding the distance: a
// thirtieth of what int8 queries and keys cost. The bound is compared as an integer: a float ternary is vectorized as
// masked branches.
PYPROD_INLINE int32_t weight_of(float distance) {
  constexpr uint32_t kMost = std::bit_cast<uint32_t>(65535.0f);
  const uint32_t bits = std::bit_cast<uint32_t>(distance);
  const int32_t steps = round_scaled(std::bit_cast<float>(bits < kMost ? bits : kMost), 1.0f);
  const int32_t x = (steps << (15 - kOctaveBits)) & 0x7fff;
  const int32_t p1 = kPolynomial[1] - scaled(x, kPolynomial[2] - scaled(x, kPolynomial[3]));
  const int32_t p = kPolynomial[0] - scaled(x, p1);
  return (((2 * p) >> (steps >> kOctaveBits)) + 1) >> 1;
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

// A block of rows whose sums are made scores; acc[panel][row][32].
struct Scoring {
  int rows;
  int64_t panels;
  const int32_t* acc;
  const float *q_scale, *k_scale;
  const float* bias;
  int64_t bias_stride;
  float* scores;
  int64_t score_stride;
  float* top;  // a row's largest score
};

// A block of rows whose scores are made weights, as bytes: weight = 256 * high + low, each xor'ed with `flip`. Where a
// row's largest score is infinite, of either sign, its weights are 0.
struct Weighing {
  int rows;
  int64_t count;  // of scores, a multiple of 32
  const float* scores;
  int64_t score_stride;
  const float* top;
  uint8_t flip;
  int8_t *high, *low;
  int64_t stride;
  int32_t* sum;  // of a row's weights
};

// The loops that take the time; an instruction set may have its own, with the same bits.
struct Loops {
  // Quantizes up to 32 rows as common/quantize.h says, each byte xor'ed with `flip`; a row that is not finite has scale
  // NaN and any q. In three passes: maximum, division and rounding of one row wait for each other, those of many rows
  // don't.
  PYPROD_INLINE static void quantize_rows(const float* const* x, int rows, int64_t depth, uint8_t flip, int8_t* q,
                                          int64_t stride, float* scale) {
    int32_t top[kPanel];
    for (int r = 0; r < rows; ++r) top[r] = largest_magnitude(x[r], depth);
    float inverse[kPanel];
    for (int r = 0; r < rows; ++r) {
      scale[r] = row_scale(top[r]);
      inverse[r] = 1.0f / scale[r];
    }
    for (int r = 0; r < rows; ++r, q += stride) {
      const float *const row = x[r], by = inverse[r];  // which a store of bytes could change
      for (int64_t d = 0; d < depth; ++d) q[d] = static_cast<int8_t>(round_scaled(row[d], by) ^ flip);
    }
  }

  // Fours of `words` bytes of up to 32 quantized rows, as a packed weight has them: to[w][row] is row's w-th.
  PYPROD_INLINE static void interleave(const int8_t* q, int64_t stride, int rows, int64_t words, int8_t* to) {
    for (int64_t w = 0; w < words; ++w, to += int8_gemm::kRowBytes) {
      for (int r = 0; r < rows; ++r) std::memcpy(to + 4 * r, q + r * stride + 4 * w, 4);
    }
  }

  // -128 times the sum of each row's bytes, from what interleave() made of them.
  PYPROD_INLINE static void compensate(const int8_t* interleaved, int64_t words, int32_t* to) {
    for (int r = 0; r < kPanel; ++r) to[r] = 0;
    for (int64_t w = 0; w < words; ++w, interleaved += int8_gemm::kRowBytes) {
      for (int r = 0; r < kPanel; ++r) {
        for (int b = 0; b < 4; ++b) to[r] -= 128 * interleaved[4 * r + b];
      }
    }
  }

  PYPROD_INLINE static void score(const Scoring& s) {
    for (int r = 0; r < s.rows; ++r) s.top[r] = score_row(s, r);
  }

  PYPROD_INLINE static void weigh(const Weighing& w) {
    // A constant each: AVX2 has no register left for it.
    for (int r = 0; r < w.rows; ++r) w.sum[r] = w.flip == 0 ? weigh_row<0>(w, r) : weigh_row<0x80>(w, r);
  }

 private:
  PYPROD_INLINE static float score_row(const Scoring& s, int row) {
    const int32_t* acc = s.acc + row * kPanel;
    const float *k_scale = s.k_scale, *bias = s.bias + row * s.bias_stride, q_scale = s.q_scale[row];
    float* scores = s.scores + row * s.score_stride;
    float top[kPanel];
    for (int j = 0; j < kPanel; ++j) top[j] = -kInfinity;
    for (int64_t p = 0; p < s.panels; ++p) {
      for (int j = 0; j < kPanel; ++j) {
        const float score = static_cast<float>(acc[j]) * (q_scale * k_scale[j]) + bias[j];
        scores[j] = score;
        top[j] = score > top[j] ? score : top[j];
      }
      acc += s.rows * kPanel, k_scale += kPanel, bias += kPanel, scores += kPanel;
    }
    return maximum(top);
  }

  template <int kFlip>
  PYPROD_INLINE static int32_t weigh_row(const Weighing& w, int row) {
    const float* scores = w.scores + row * w.score_stride;
    int8_t *high = w.high + row * w.stride, *low = w.low + row * w.stride;
    const float top = w.top[row];
    const int64_t count = w.count;
    int32_t total = 0;
    for (int64_t first = 0; first < count; first += kPanel) {
      for (int64_t j = first; j < first + kPanel; ++j) {
        const int32_t weight = weight_of(top - scores[j]);
        high[j] = static_cast<int8_t>((weight + 128) >> 8 ^ kFlip);
        low[j] = static_cast<int8_t>(weight ^ kFlip);  // modulo 256, in -128..127
        total += weight;
      }
    }
    return total;
  }
};

}  // namespace pyprod::int8_attention
