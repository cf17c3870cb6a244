#if defined(__x86_64__)

// GCC 12 takes the undefined operand inside its own intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "int8_attention/attend.h"
#include "int8_gemm/quantize_avx512.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

namespace pyprod::int8_attention {
namespace {

// Loops (loops.h) by hand: the compiler's code takes twice as long.
struct Loops512 {
  TARGET static void quantize_rows(const float* const* x, int rows, int64_t depth, uint8_t flip, int8_t* q,
                                   int64_t stride, float* scale) {
    const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
    alignas(64) float inverse[kPanel];
    for (int r = 0; r < rows; r += 16) {
      scales_of(largest_of_rows(x + r, std::min(rows - r, 16), depth), rows - r, scale + r, inverse + r);
    }
    const int64_t whole = depth / 64 * 64, rest = depth - whole;
    for (int r = 0; r < rows; ++r) {
      const __m512 by = _mm512_set1_ps(inverse[r]);
      for (int64_t d = 0; d < whole; d += 64) {
        const __m512i bytes = int8_gemm::quantize_64<0>(Values<float>{x[r]}, d, ~__mmask64{0}, by);
        _mm512_storeu_si512(q + r * stride + d, _mm512_xor_si512(bytes, flips));
      }
      if (rest <= 32) continue;
      const __mmask64 mask = (__mmask64{1} << rest) - 1;
      const __m512i bytes = int8_gemm::quantize_64<0>(Values<float>{x[r]}, whole, mask, by);
      _mm512_mask_storeu_epi8(q + r * stride + whole, mask, _mm512_xor_si512(bytes, flips));
    }
    if (rest == 0 || rest > 32) return;
    const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << rest) - 1);
    for (int r = 0; r < rows; r += 2) {
      const int other = std::min(r + 1, rows - 1);
      const __m512i bytes =
          _mm512_xor_si512(two_halves(x[r] + whole, x[other] + whole, mask, inverse[r], inverse[other]), flips);
      _mm256_mask_storeu_epi8(q + r * stride + whole, mask, _mm512_castsi512_si256(bytes));
      _mm256_mask_storeu_epi8(q + other * stride + whole, mask, _mm512_extracti64x4_epi64(bytes, 1));
    }
  }

  // Four rows of 16 bytes, one from each quarter, are a vector: transposed within its lanes, the quarters are in order.
  TARGET static void interleave(const int8_t* q, int64_t stride, int rows, int64_t words, int8_t* to) {
    if (rows < kPanel || words % 4 != 0) return Loops::interleave(q, stride, rows, words, to);
    for (int64_t w = 0; w < words; w += 4, q += 16) {
      for (int half = 0; half < 2; ++half) {
        const int8_t* from = q + 16 * half * stride;
        const __m512i a = quarters(from, 4 * stride), b = quarters(from + stride, 4 * stride);
        const __m512i c = quarters(from + 2 * stride, 4 * stride), d = quarters(from + 3 * stride, 4 * stride);
        const __m512i ab0 = _mm512_unpacklo_epi32(a, b), ab2 = _mm512_unpackhi_epi32(a, b);
        const __m512i cd0 = _mm512_unpacklo_epi32(c, d), cd2 = _mm512_unpackhi_epi32(c, d);
        int8_t* at = to + w * int8_gemm::kRowBytes + 64 * half;
        _mm512_storeu_si512(at, _mm512_unpacklo_epi64(ab0, cd0));
        _mm512_storeu_si512(at + int8_gemm::kRowBytes, _mm512_unpackhi_epi64(ab0, cd0));
        _mm512_storeu_si512(at + 2 * int8_gemm::kRowBytes, _mm512_unpacklo_epi64(ab2, cd2));
        _mm512_storeu_si512(at + 3 * int8_gemm::kRowBytes, _mm512_unpackhi_epi64(ab2, cd2));
      }
    }
  }

  TARGET static void compensate(const int8_t* interleaved, int64_t words, int32_t* to) {
    const __m512i bytes = _mm512_set1_epi8(1), pairs = _mm512_set1_epi16(1);
    __m512i low = _mm512_setzero_si512(), high = low;
    for (int64_t w = 0; w < words; ++w, interleaved += int8_gemm::kRowBytes) {
      const __m512i a = _mm512_maddubs_epi16(bytes, _mm512_loadu_si512(interleaved));
      const __m512i b = _mm512_maddubs_epi16(bytes, _mm512_loadu_si512(interleaved + 64));
      low = _mm512_sub_epi32(low, _mm512_madd_epi16(a, pairs));
      high = _mm512_sub_epi32(high, _mm512_madd_epi16(b, pairs));
    }
    _mm512_storeu_si512(to, _mm512_slli_epi32(low, 7));
    _mm512_storeu_si512(to + 16, _mm512_slli_epi32(high, 7));
  }

  TARGET static void score(const Scoring& s) {
    for (int r = 0; r < s.rows; r += 16) {
      __m512i top[16];
      for (int i = 0; i < 16; ++i) {
        top[i] = r + i < s.rows ? score_row(s, r + i) : _mm512_setzero_si512();
      }
      const __mmask16 rows = first(s.rows - r);
      _mm512_mask_storeu_ps(s.top + r, rows, _mm512_castsi512_ps(folded<LargestFloat>(top)));
    }
  }

  TARGET static void weigh(const Weighing& w) {
    for (int r = 0; r < w.rows; r += 16) {
      __m512i sum[16];
      for (int i = 0; i < 16; ++i) {
        sum[i] = r + i < w.rows ? weigh_row(w, r + i) : _mm512_setzero_si512();
      }
      _mm512_mask_storeu_epi32(w.sum + r, first(w.rows - r), folded<Sum>(sum));
    }
  }

 private:
  // The largest magnitude_bits() of each of 16 rows, 0 of those that are not there.
  TARGET PYPROD_INLINE static __m512i largest_of_rows(const float* const* x, int rows, int64_t depth) {
    __m512i top[16];
    const __mmask16 rest = static_cast<__mmask16>((1 << depth % 16) - 1);
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      top[r] = _mm512_setzero_si512();
      if (r >= rows) continue;
      int64_t d = 0;
      for (; d + 16 <= depth; d += 16) top[r] = _mm512_max_epi32(top[r], magnitudes(x[r] + d, 0xffff));
      if (rest != 0) top[r] = _mm512_max_epi32(top[r], magnitudes(x[r] + d, rest));
    }
    return folded<LargestInteger>(top);
  }

  TARGET PYPROD_INLINE static __m512i magnitudes(const float* x, __mmask16 mask) {
    return _mm512_and_si512(_mm512_maskz_loadu_epi32(mask, x), _mm512_set1_epi32(0x7fffffff));
  }

  // The first `count` of 16.
  TARGET PYPROD_INLINE static __mmask16 first(int count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : (1 << count) - 1);
  }

  struct LargestInteger {
    TARGET PYPROD_INLINE static __m512i of(__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }
  };

  struct LargestFloat {
    TARGET PYPROD_INLINE static __m512i of(__m512i a, __m512i b) {
      return _mm512_castps_si512(_mm512_max_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
    }
  };

  struct Sum {
    TARGET PYPROD_INLINE static __m512i of(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
  };

  // Each of 16 vectors folded to one element: they are folded while they are transposed.
  template <class Fold>
  TARGET PYPROD_INLINE static __m512i folded(const __m512i (&x)[16]) {
    __m512i eight[8], four[4];
    for (int i = 0; i < 8; ++i) {
      eight[i] = Fold::of(_mm512_shuffle_i32x4(x[i], x[i + 8], 0x44), _mm512_shuffle_i32x4(x[i], x[i + 8], 0xee));
    }
    for (int i = 0; i < 4; ++i) {  // lanes: rows i, i + 8, i + 4, i + 12
      four[i] = Fold::of(_mm512_shuffle_i32x4(eight[i], eight[i + 4], 0x88),
                         _mm512_shuffle_i32x4(eight[i], eight[i + 4], 0xdd));
    }
    const __m512i a = Fold::of(_mm512_unpacklo_epi32(four[0], four[1]), _mm512_unpackhi_epi32(four[0], four[1]));
    const __m512i b = Fold::of(_mm512_unpacklo_epi32(four[2], four[3]), _mm512_unpackhi_epi32(four[2], four[3]));
    const __m512i all = Fold::of(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    return _mm512_shuffle_i32x4(all, all, 0xd8);
  }

  // round_scaled() of up to 32 floats of each of two rows, as bytes.
  TARGET PYPROD_INLINE static __m512i two_halves(const float* a, const float* b, __mmask32 mask, float by_a,
                                                 float by_b) {
    const __mmask16 low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
    const __m512 first = _mm512_set1_ps(by_a), second = _mm512_set1_ps(by_b);
    using int8_gemm::load_floats;
    using int8_gemm::round_16;
    return int8_gemm::pack_64(round_16(load_floats(a, low), first), round_16(load_floats(a + 16, high), first),
                              round_16(load_floats(b, low), second), round_16(load_floats(b + 16, high), second));
  }

  // row_scale() of up to 16 rows, and 1 / it.
  TARGET PYPROD_INLINE static void scales_of(__m512i top, int rows, float* scale, float* inverse) {
    const __m512 ratio = _mm512_div_ps(_mm512_castsi512_ps(top), _mm512_set1_ps(127.0f));
    const __mmask16 finite = _mm512_cmplt_epi32_mask(top, _mm512_set1_epi32(0x7f800000));
    const __m512i scales = _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fc00000), finite,
                                                 _mm512_castps_si512(_mm512_max_ps(ratio, _mm512_set1_ps(FLT_MIN))));
    _mm512_mask_storeu_epi32(scale, first(rows), scales);
    _mm512_store_ps(inverse, _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_castsi512_ps(scales)));
  }

  // 16 bytes of each of four rows.
  TARGET PYPROD_INLINE static __m512i quarters(const int8_t* q, int64_t stride) {
    const __m512i first = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
    const __m512i two = _mm512_inserti32x4(first, _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + stride)), 1);
    const __m512i three = _mm512_inserti32x4(two, _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 2 * stride)), 2);
    return _mm512_inserti32x4(three, _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 3 * stride)), 3);
  }

  // The largest score of each sixteenth of a row.
  TARGET PYPROD_INLINE static __m512i score_row(const Scoring& s, int row) {
    const __m512 scale = _mm512_set1_ps(s.q_scale[row]), least = _mm512_set1_ps(-kInfinity);
    const int32_t* acc = s.acc + row * kPanel;
    const float *k_scale = s.k_scale, *bias = s.bias + row * s.bias_stride;
    float* scores = s.scores + row * s.score_stride;
    __m512 top0 = least, top1 = least;
    for (int64_t p = 0; p < s.panels; ++p) {
      const __m512 s0 = _mm512_add_ps(unbiased(acc, scale, k_scale), _mm512_loadu_ps(bias));
      const __m512 s1 = sum(unbiased(acc + 16, scale, k_scale + 16), _mm512_loadu_ps(bias + 16));
      _mm512_storeu_ps(scores, s0);
      _mm512_storeu_ps(scores + 16, s1);
      top0 = _mm512_max_ps(s0, top0);
      top1 = _mm512_max_ps(s1, top1);
      acc += s.rows * kPanel, k_scale += kPanel, bias += kPanel, scores += kPanel;
    }
    return _mm512_castps_si512(_mm512_max_ps(top0, top1));
  }

  TARGET PYPROD_INLINE static __m512 unbiased(const int32_t* sums, __m512 scale, const float* k_scale) {
    const __m512 both = _mm512_mul_ps(scale, _mm512_loadu_ps(k_scale));
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sums)), both);
  }

  // a + b from what multiplies: Zen 4 has two pipes for that, and two others that add, convert and compare floats.
  TARGET PYPROD_INLINE static __m512 sum(__m512 a, __m512 b) { return _mm512_fmadd_ps(a, _mm512_set1_ps(1.0f), b); }

  // The sum of each sixteenth of a row's weights.
  TARGET PYPROD_INLINE static __m512i weigh_row(const Weighing& w, int row) {
    const float* scores = w.scores + row * w.score_stride;
    int8_t *high = w.high + row * w.stride, *low = w.low + row * w.stride;
    const __m512 top = _mm512_set1_ps(w.top[row]);
    const __m512i one = _mm512_set1_epi16(1);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t j = 0; j < w.count; j += 64) {
      const bool whole = w.count - j >= 64;
      const __m512i a = weights_of(scores + j, top);
      const __m512i b = whole ? weights_of(scores + j + 32, top) : _mm512_setzero_si512();
      sum = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum, a, one), b, one);
      store_bytes(a, b, w.flip, whole, high + j, low + j);
    }
    return sum;
  }

  // weight_of() of 32 scores; packing puts fours of the first 16 and of the second in turn.
  TARGET PYPROD_INLINE static __m512i weights_of(const float* scores, __m512 top) {
    const __m512i steps = _mm512_packus_epi32(steps_below(scores, top), steps_below(scores + 16, top));
    const __m512i x = _mm512_and_si512(_mm512_slli_epi16(steps, 15 - kOctaveBits), _mm512_set1_epi16(0x7fff));
    __m512i p = _mm512_set1_epi16(kPolynomial[3]);
#pragma GCC unroll 3
    for (int i = 2; i >= 0; --i) p = _mm512_sub_epi16(_mm512_set1_epi16(kPolynomial[i]), _mm512_mulhrs_epi16(x, p));
    const __m512i twice = _mm512_srlv_epi16(_mm512_add_epi16(p, p), _mm512_srli_epi16(steps, kOctaveBits));
    return _mm512_avg_epu16(twice, _mm512_setzero_si512());
  }

  // The difference comes from what multiplies, too, and the bound is compared as an integer, as in weight_of().
  TARGET PYPROD_INLINE static __m512i steps_below(const float* scores, __m512 top) {
    const __m512 distance = _mm512_fnmadd_ps(_mm512_loadu_ps(scores), _mm512_set1_ps(1.0f), top);
    const __m512i most = _mm512_set1_epi32(std::bit_cast<int32_t>(65535.0f));
    return _mm512_cvtps_epi32(_mm512_castsi512_ps(_mm512_min_epu32(_mm512_castps_si512(distance), most)));
  }

  // Both bytes of 64 weights, or of 32. Those of weight + 128 are the high one and, its upper bit flipped, the low one;
  // flipping both is adding 0x8000 more. Packing works within 128-bit lanes: words of four weights come out transposed.
  TARGET PYPROD_INLINE static void store_bytes(__m512i ab, __m512i cd, uint8_t flip, bool whole, int8_t* high,
                                               int8_t* low) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i half = _mm512_set1_epi16(static_cast<int16_t>(flip << 8 | 128)), byte = _mm512_set1_epi16(255);
    const __m512i x = _mm512_add_epi16(ab, half), y = _mm512_add_epi16(cd, half);
    const __m512i upper = _mm512_packus_epi16(_mm512_srli_epi16(x, 8), _mm512_srli_epi16(y, 8));
    const __m512i lower = _mm512_packus_epi16(_mm512_and_si512(x, byte), _mm512_and_si512(y, byte));
    const __m512i highs = _mm512_permutexvar_epi32(order, upper);
    const __m512i lows =
        _mm512_xor_si512(_mm512_permutexvar_epi32(order, lower), _mm512_set1_epi8(static_cast<char>(flip ^ 128)));
    if (whole) {
      _mm512_storeu_si512(high, highs);
      _mm512_storeu_si512(low, lows);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_castsi512_si256(highs));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), _mm512_castsi512_si256(lows));
    }
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
