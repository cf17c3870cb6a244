#if defined(__x86_64__)

// GCC 12 takes the undefined operand inside its own intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "int8_attention/attend.h"
#include "int8_gemm/quantize_avx512.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

namespace pyprod::int8_attention {
namespace {

// Loops (loops.h) by hand: the compiler's code takes twice as long.
struct Loops512 {
  TARGET static void quantize_rows(const float* const* x, int rows, int64_t depth, int8_t* q, int64_t stride,
                                   float* scale) {
    const int64_t whole = depth / 64 * 64;
    const __mmask64 all = ~__mmask64{0}, rest = (__mmask64{1} << (depth - whole)) - 1;
    alignas(64) int32_t top[kPanel];
    for (int r = 0; r < rows; ++r) {
      __m512i tops[4] = {};
      for (int64_t d = 0; d < whole; d += 64) int8_gemm::fold_magnitudes(x[r] + d, all, tops);
      if (rest != 0) int8_gemm::fold_magnitudes(x[r] + whole, rest, tops);
      top[r] = _mm512_reduce_max_epi32(
          _mm512_max_epi32(_mm512_max_epi32(tops[0], tops[1]), _mm512_max_epi32(tops[2], tops[3])));
    }
    float inverse[kPanel];
    for (int r = 0; r < rows; ++r) {
      scale[r] = row_scale(top[r]);
      inverse[r] = 1.0f / scale[r];
    }
    for (int r = 0; r < rows; ++r, q += stride) {
      const __m512 by = _mm512_set1_ps(inverse[r]);
      for (int64_t d = 0; d < whole; d += 64) {
        _mm512_storeu_si512(q + d, int8_gemm::quantize_64<0>(x[r] + d, all, by));
      }
      if (rest != 0) _mm512_mask_storeu_epi8(q + whole, rest, int8_gemm::quantize_64<0>(x[r] + whole, rest, by));
    }
  }

  // After an odd last panel come scores of -infinity, since weigh() takes 64 at once.
  TARGET static float score(const int32_t* acc, int64_t stride, int64_t panels, float q_scale, const float* k_scale,
                            const float* bias, float* scores) {
    const __m512 scale = _mm512_set1_ps(q_scale), least = _mm512_set1_ps(-kInfinity);
    __m512 top0 = least, top1 = least;
    for (int64_t p = 0; p < panels; ++p, acc += stride, k_scale += kPanel, bias += kPanel, scores += kPanel) {
      const __m512 s0 = score_of(_mm512_loadu_si512(acc), scale, k_scale, bias);
      const __m512 s1 = score_of(_mm512_loadu_si512(acc + 16), scale, k_scale + 16, bias + 16);
      _mm512_storeu_ps(scores, s0);
      _mm512_storeu_ps(scores + 16, s1);
      top0 = _mm512_max_ps(s0, top0);
      top1 = _mm512_max_ps(s1, top1);
    }
    if (panels % 2 != 0) {
      _mm512_storeu_ps(scores, least);
      _mm512_storeu_ps(scores + 16, least);
    }
    return _mm512_reduce_max_ps(_mm512_max_ps(top0, top1));
  }

  TARGET static int32_t weigh(const float* scores, int64_t count, float maximum, int8_t* high, int8_t* low) {
    const __m512 top = _mm512_set1_ps(maximum);
    __m512i total = _mm512_setzero_si512();
    for (int64_t j = 0; j < count; j += 64) {
      const __m512i a = weights_of(scores + j, top), b = weights_of(scores + j + 16, top);
      const __m512i c = weights_of(scores + j + 32, top), d = weights_of(scores + j + 48, top);
      total = _mm512_add_epi32(total, _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)));
      store_bytes(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d), count - j, high + j, low + j);
    }
    return _mm512_reduce_add_epi32(total);
  }

 private:
  TARGET PYPROD_INLINE static __m512 score_of(__m512i sums, __m512 scale, const float* k_scale, const float* bias) {
    const __m512 both = _mm512_mul_ps(scale, _mm512_loadu_ps(k_scale));
    return _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), both), _mm512_loadu_ps(bias));
  }

  // weight_of() of 16 scores.
  TARGET PYPROD_INLINE static __m512i weights_of(const float* scores, __m512 top) {
    const __m512 t = _mm512_max_ps(_mm512_sub_ps(_mm512_loadu_ps(scores), top), _mm512_set1_ps(-20.0f));
    const __m512 shifted = _mm512_add_ps(t, _mm512_set1_ps(12582912.0f));
    const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // t - round(t)
    __m512 p = _mm512_mul_ps(f, _mm512_set1_ps(kPolynomial[3]));
    p = _mm512_mul_ps(_mm512_add_ps(p, _mm512_set1_ps(kPolynomial[2])), f);
    p = _mm512_mul_ps(_mm512_add_ps(p, _mm512_set1_ps(kPolynomial[1])), f);
    p = _mm512_add_ps(p, _mm512_set1_ps(kPolynomial[0]));
    const __m512i power = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_castsi512_ps(power), _mm512_set1_ps(kTopWeight)));
  }

  // The high and low bytes of 64 weights, or of 32 when fewer are `left`. Packing works within 128-bit lanes: words of
  // four weights come out transposed.
  TARGET PYPROD_INLINE static void store_bytes(__m512i ab, __m512i cd, int64_t left, int8_t* high, int8_t* low) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i half = _mm512_set1_epi16(128), byte = _mm512_set1_epi16(255);
    const __mmask64 mask = left < 64 ? 0xffffffffu : ~__mmask64{0};
    const __m512i upper = _mm512_packs_epi16(_mm512_srai_epi16(_mm512_add_epi16(ab, half), 8),
                                             _mm512_srai_epi16(_mm512_add_epi16(cd, half), 8));
    const __m512i lower = _mm512_packus_epi16(_mm512_and_si512(ab, byte), _mm512_and_si512(cd, byte));
    _mm512_mask_storeu_epi8(high, mask, _mm512_permutexvar_epi32(order, upper));
    _mm512_mask_storeu_epi8(low, mask, _mm512_permutexvar_epi32(order, lower));
  }
};

TARGET int64_t scratch_bytes(const Head& head, const int8_gemm::Path& path) {
  return Buffers(head, path, nullptr).bytes;
}

TARGET void run(const Head& head, const int8_gemm::Path& path, char* scratch) { attend<Loops512>(head, path, scratch); }

}  // namespace

const Attend kAvx512 = {scratch_bytes, run};

}  // namespace pyprod::int8_attention

#endif
