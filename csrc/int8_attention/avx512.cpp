#if defined(__x86_64__)

// GCC 12 takes the undefined operand inside its own intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "int8_attention/attend.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

namespace pyprod::int8_attention {
namespace {

// Softmax (softmax.h) by hand: the compiler's code for these two loops takes twice as long.
struct Softmax512 {
  TARGET static void score_tile(const int32_t* acc, int rows, const float* q_scale, const float* k_scale,
                                const float* bias, int64_t bias_stride, float* scores, int64_t stride, float* top) {
    const __m512 k0 = _mm512_loadu_ps(k_scale), k1 = _mm512_loadu_ps(k_scale + 16);
    for (int r = 0; r < rows; ++r, acc += kPanel, bias += bias_stride, scores += stride, top += kPanel) {
      const __m512 scale = _mm512_set1_ps(q_scale[r]);
      const __m512 a0 = _mm512_cvtepi32_ps(_mm512_loadu_si512(acc));
      const __m512 a1 = _mm512_cvtepi32_ps(_mm512_loadu_si512(acc + 16));
      const __m512 s0 = _mm512_add_ps(_mm512_mul_ps(a0, _mm512_mul_ps(scale, k0)), _mm512_loadu_ps(bias));
      const __m512 s1 = _mm512_add_ps(_mm512_mul_ps(a1, _mm512_mul_ps(scale, k1)), _mm512_loadu_ps(bias + 16));
      _mm512_storeu_ps(scores, s0);
      _mm512_storeu_ps(scores + 16, s1);
      _mm512_storeu_ps(top, _mm512_max_ps(s0, _mm512_loadu_ps(top)));
      _mm512_storeu_ps(top + 16, _mm512_max_ps(s1, _mm512_loadu_ps(top + 16)));
    }
  }

  TARGET static __m512i weights_of(__m512 t) {
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    t = _mm512_max_ps(t, _mm512_set1_ps(-20.0f));
    const __m512 shifted = _mm512_add_ps(t, magic);
    const __m512 f = _mm512_sub_ps(t, _mm512_sub_ps(shifted, magic));
    __m512 p = _mm512_mul_ps(f, _mm512_set1_ps(kPolynomial[3]));
    p = _mm512_mul_ps(_mm512_add_ps(p, _mm512_set1_ps(kPolynomial[2])), f);
    p = _mm512_mul_ps(_mm512_add_ps(p, _mm512_set1_ps(kPolynomial[1])), f);
    p = _mm512_add_ps(p, _mm512_set1_ps(kPolynomial[0]));
    const __m512i power = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
    const __m512 rounded = _mm512_add_ps(_mm512_mul_ps(_mm512_castsi512_ps(power), _mm512_set1_ps(kTopWeight)), magic);
    return _mm512_sub_epi32(_mm512_castps_si512(rounded), _mm512_set1_epi32(0x4b400000));
  }

  TARGET static int32_t weigh(const float* scores, int64_t count, float maximum, int8_t* high, int8_t* low) {
    const __m512 top = _mm512_set1_ps(maximum);
    const __m512i half = _mm512_set1_epi32(128);
    __m512i total = _mm512_setzero_si512();
    for (int64_t j = 0; j < count; j += 16) {
      const __m512i weight = weights_of(_mm512_sub_ps(_mm512_loadu_ps(scores + j), top));
      const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(weight, half), 8);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(high + j), _mm512_cvtepi32_epi8(upper));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(low + j), _mm512_cvtepi32_epi8(weight));
      total = _mm512_add_epi32(total, weight);
    }
    return _mm512_reduce_add_epi32(total);
  }
};

TARGET int64_t scratch_bytes(const Head& head, const int8_gemm::Path& path) {
  return Buffers(head, path, nullptr).bytes;
}

TARGET void run(const Head& head, const int8_gemm::Path& path, char* scratch) {
  attend<Softmax512>(head, path, scratch);
}

}  // namespace

const Attend kAvx512 = {scratch_bytes, run};

}  // namespace pyprod::int8_attention

#endif
