#include "int8_conv2d/finish.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "common/cpu_features.h"
#include "int8_gemm/rows.h"

// "The ABI of a vector argument depends on the target": everything that takes one is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

namespace pyprod::int8_conv2d {
namespace {

using int8_gemm::kPanel;

constexpr __mmask16 kAll = 0xffff;  // maskz forms throughout: GCC 12 takes the others' undefined operand for our bug

// What 16 channels need, the same for all rows.
struct Channels {
  __m512 scale, bias;
  __m512i offset;
  __mmask16 mask;
};

TARGET PYPROD_INLINE __m512 to_floats(__m512i x) {
  return __builtin_convertvector(reinterpret_cast<__v16si>(x), __m512);
}

TARGET PYPROD_INLINE __m512 load_residual(const Conv& conv, const void* residual, int64_t at, __mmask16 mask) {
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

TARGET PYPROD_INLINE __m128i quantize(__m512 y, const Bounds& b) {
  y = _mm512_maskz_max_ps(kAll, y * b.inverse, b.low);
  y = _mm512_maskz_min_ps(kAll, y, b.high);
  return _mm512_maskz_cvtepi32_epi8(kAll, _mm512_add_epi32(_mm512_maskz_cvtps_epi32(kAll, y), b.zero_point));
}

template <bool kResidual, bool kBytes>
TARGET PYPROD_INLINE void finish_half(const Conv& conv, const void* residual, void* out, int64_t m, int rows, int64_t n,
                                      const int32_t* acc, const Channels& c) {
  const int32_t zero = conv.y.zero_point;
  const bool relu = conv.activation == Activation::relu;
  const Bounds bounds = {_mm512_set1_ps(1.0f / conv.y.scale),
                         _mm512_set1_ps(relu ? 0.0f : static_cast<float>(-128 - zero)),
                         _mm512_set1_ps(static_cast<float>(127 - zero)), _mm512_set1_epi32(zero)};
  int64_t at = m * conv.out.c + n;
  for (int r = 0; r < rows; ++r, at += conv.out.c, acc += kPanel) {
    const __m512i sums = _mm512_sub_epi32(_mm512_loadu_si512(acc), c.offset);
    __m512 y = to_floats(sums) * c.scale + c.bias;
    if constexpr (kResidual) y += load_residual(conv, residual, at, c.mask);
    if constexpr (kBytes) {
      _mm_mask_storeu_epi8(static_cast<int8_t*>(out) + at, c.mask, quantize(y, bounds));
    } else {
      if (relu) y = _mm512_maskz_max_ps(kAll, _mm512_setzero_ps(), y);
      _mm512_mask_storeu_ps(static_cast<float*>(out) + at, c.mask, y);
    }
  }
}

}  // namespace

bool has_finish_avx512(const Conv& conv) {
  static const bool supported = [] {
    const CpuFeatures has = detect_cpu();
    return has.avx512f && has.avx512bw && has.avx512dq && has.avx512vl;
  }();
  return supported && (conv.activation == Activation::none || conv.activation == Activation::relu);
}

TARGET void finish_avx512(const Conv& conv, const void* residual, void* out, int64_t m, int rows, int64_t n,
                          const int32_t* acc, const int8_t* panel) {
  alignas(64) int32_t offset[kPanel] = {};
  if (conv.x.zero_point != 0) int8_gemm::zero_point_sums(conv.x.zero_point, panel, offset);
  for (int h = 0; h < 2 && n + 16 * h < conv.out.c; ++h) {
    const int64_t first = n + 16 * h, left = conv.out.c - first;
    Channels c;
    c.mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1);
    c.scale = _mm512_set1_ps(conv.x.scale) * _mm512_maskz_loadu_ps(c.mask, conv.w_scale + first);
    c.bias = conv.bias != nullptr ? _mm512_maskz_loadu_ps(c.mask, conv.bias + first) : _mm512_setzero_ps();
    c.offset = _mm512_load_si512(offset + 16 * h);
    const int32_t* from = acc + 16 * h;
    if (conv.out_type == Element::int8) {
      if (residual != nullptr) {
        finish_half<true, true>(conv, residual, out, m, rows, first, from, c);
      } else {
        finish_half<false, true>(conv, residual, out, m, rows, first, from, c);
      }
    } else if (residual != nullptr) {
      finish_half<true, false>(conv, residual, out, m, rows, first, from, c);
    } else {
      finish_half<false, false>(conv, residual, out, m, rows, first, from, c);
    }
  }
}

}  // namespace pyprod::int8_conv2d

#else

namespace pyprod::int8_conv2d {

bool has_finish_avx512(const Conv&) { return false; }

void finish_avx512(const Conv&, const void*, void*, int64_t, int, int64_t, const int32_t*, const int8_t*) {}

}  // namespace pyprod::int8_conv2d

#endif
