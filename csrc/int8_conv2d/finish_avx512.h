#pragma once

#include <immintrin.h>

#include "int8_conv2d/conv.h"
#include "int8_gemm/rows.h"

// From sums to the output, all in registers: dequantized, plus an int8 or float residual, ReLU, int8 or float. The same
// bits as the epilogue of int8_gemm, at an eighth of its time for int8: that one goes through memory.

// "The ABI of a vector argument depends on the target": everything that takes one is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

#define PYPROD_FINISH \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) PYPROD_INLINE

namespace pyprod::int8_conv2d {

constexpr __mmask16 kAll = 0xffff;  // maskz forms throughout: GCC 12 takes the others' undefined operand for our bug

// What 16 channels need, the same for all rows.
struct Channels {
  __m512 scale, bias;
  __m512i offset;
  __mmask16 mask;
};

PYPROD_FINISH __m512 to_floats(__m512i x) { return __builtin_convertvector(reinterpret_cast<__v16si>(x), __m512); }

PYPROD_FINISH __m512 load_residual(const Conv& conv, const void* residual, int64_t at, __mmask16 mask) {
  if (conv.residual_type == Element::float32) {
    return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(residual) + at);
  }
  const __m128i bytes = _mm_maskz_loadu_epi8(mask, static_cast<const int8_t*>(residual) + at);
  const __m512i q =
      _mm512_sub_epi32(_mm512_maskz_cvtepi8_epi32(kAll, bytes), _mm512_set1_epi32(conv.residual.zero_point));
  return to_floats(q) * _mm512_set1_ps(conv.residual.scale);
}

// A NaN becomes `low`: max and min give their second operand where one is NaN.
struct Bounds {
  __m512 inverse, low, high;
  __m512i zero_point;
};

PYPROD_FINISH __m128i quantize(__m512 y, const Bounds& b) {
  y = _mm512_maskz_max_ps(kAll, y * b.inverse, b.low);
  y = _mm512_maskz_min_ps(kAll, y, b.high);
  return _mm512_maskz_cvtepi32_epi8(kAll, _mm512_add_epi32(_mm512_maskz_cvtps_epi32(kAll, y), b.zero_point));
}

// Finishes rows of one panel: what its channels need is made once.
class Finish {
 public:
  PYPROD_FINISH Finish(const Conv& conv, const void* residual, void* out, int64_t n, const int8_t* panel)
      : conv_(conv), residual_(residual), out_(out), n_(n) {
    alignas(64) int32_t offset[int8_gemm::kPanel] = {};
    if (conv.x.zero_point != 0) int8_gemm::zero_point_sums(conv.x.zero_point, panel, offset);
    for (int h = 0; h < 2; ++h) {
      const int64_t left = conv.out.c - n - 16 * h;
      Channels& c = channels_[h];
      c.mask = static_cast<__mmask16>(left >= 16 ? 0xffff : left > 0 ? (1u << left) - 1 : 0);
      c.scale = _mm512_set1_ps(conv.x.scale) * _mm512_maskz_loadu_ps(c.mask, conv.w_scale + n + 16 * h);
      c.bias = conv.bias != nullptr ? _mm512_maskz_loadu_ps(c.mask, conv.bias + n + 16 * h) : _mm512_setzero_ps();
      c.offset = _mm512_load_si512(offset + 16 * h);
    }
    const int32_t zero = conv.y.zero_point;
    bounds_ = {_mm512_set1_ps(1.0f / conv.y.scale),
               _mm512_set1_ps(conv.activation == Activation::relu ? 0.0f : static_cast<float>(-128 - zero)),
               _mm512_set1_ps(static_cast<float>(127 - zero)), _mm512_set1_epi32(zero)};
  }

  // Output pixels [m, m + rows) from acc[rows][32].
  PYPROD_FINISH void rows(int64_t m, int rows, const int32_t* acc) const {
    if (conv_.out_type == Element::int8) {
      residual_ != nullptr ? both<true, true>(m, rows, acc) : both<false, true>(m, rows, acc);
    } else {
      residual_ != nullptr ? both<true, false>(m, rows, acc) : both<false, false>(m, rows, acc);
    }
  }

 private:
  const Conv& conv_;
  const void* residual_;
  void* out_;
  const int64_t n_;
  Channels channels_[2];
  Bounds bounds_;

  template <bool kResidual, bool kBytes>
  PYPROD_FINISH void both(int64_t m, int rows, const int32_t* acc) const {
    half<kResidual, kBytes>(m, rows, acc, n_, channels_[0]);
    if (channels_[1].mask != 0) half<kResidual, kBytes>(m, rows, acc + 16, n_ + 16, channels_[1]);
  }

  template <bool kResidual, bool kBytes>
  PYPROD_FINISH void half(int64_t m, int rows, const int32_t* acc, int64_t n, const Channels& c) const {
    const bool relu = conv_.activation == Activation::relu;
    int64_t at = m * conv_.out.c + n;
    for (int r = 0; r < rows; ++r, at += conv_.out.c, acc += int8_gemm::kPanel) {
      const __m512i sums = _mm512_sub_epi32(_mm512_loadu_si512(acc), c.offset);
      __m512 y = to_floats(sums) * c.scale + c.bias;
      if constexpr (kResidual) y += load_residual(conv_, residual_, at, c.mask);
      if constexpr (kBytes) {
        _mm_mask_storeu_epi8(static_cast<int8_t*>(out_) + at, c.mask, quantize(y, bounds_));
      } else {
        if (relu) y = _mm512_maskz_max_ps(kAll, _mm512_setzero_ps(), y);
        _mm512_mask_storeu_ps(static_cast<float*>(out_) + at, c.mask, y);
      }
    }
  }
};

}  // namespace pyprod::int8_conv2d
