// AVX512 by hand, 64 elements at a time: sums are folded in registers, integers are packed without a trip through
// memory.

#if defined(__x86_64__)

#pragma GCC diagnostic ignored "-Wuninitialized"  // of g++ 12 in its own intrinsics: GCC bug 105593
#include <immintrin.h>

#include "int8_gemm/quantize_avx512.h"
#include "norm/row.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))

namespace pyprod::norm {
namespace {

constexpr int kLanes = 16, kVectors = kPartials / kLanes;

// Up to 64 elements at a time: whole, or the last ones of a row, the rest of which are neither read nor written.
struct Whole {
  TARGET PYPROD_INLINE __mmask16 lanes(int) const { return 0xffff; }
  TARGET PYPROD_INLINE __m512 load(const float* x, int j) const { return _mm512_loadu_ps(x + j * kLanes); }
  TARGET PYPROD_INLINE void store(float* y, int j, __m512 v) const { _mm512_storeu_ps(y + j * kLanes, v); }
  TARGET PYPROD_INLINE void store(int8_t* q, __m512i v) const { _mm512_storeu_si512(q, v); }
};

struct Rest {
  __mmask64 mask;

  TARGET PYPROD_INLINE __mmask16 lanes(int j) const { return static_cast<__mmask16>(mask >> (kLanes * j)); }
  TARGET PYPROD_INLINE __m512 load(const float* x, int j) const {
    return _mm512_maskz_loadu_ps(lanes(j), x + j * kLanes);
  }
  TARGET PYPROD_INLINE void store(float* y, int j, __m512 v) const {
    _mm512_mask_storeu_ps(y + j * kLanes, lanes(j), v);
  }
  TARGET PYPROD_INLINE void store(int8_t* q, __m512i v) const { _mm512_mask_storeu_epi8(q, mask, v); }
};

// step(at, Whole) for each 64 of k elements, step(at, Rest) for what is left.
template <class Step>
TARGET PYPROD_INLINE void each_64(int64_t k, Step& step) {
  int64_t i = 0;
  for (; i + kPartials <= k; i += kPartials) step(i, Whole{});
  if (i < k) step(i, Rest{(__mmask64{1} << (k - i)) - 1});
}

enum class Term { value, square, centered_square };

// By the partial sums of sums.h.
template <Term kTerm>
struct Sum {
  const float* x;
  __m512 mean;
  __m512 partials[kVectors] = {};

  template <class Part>
  TARGET PYPROD_INLINE void operator()(int64_t i, Part part) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      __m512 term = part.load(x + i, j);
      if (kTerm == Term::centered_square) term = term - mean;
      if (kTerm != Term::value) term = term * term;
      partials[j] = _mm512_mask_add_ps(partials[j], part.lanes(j), partials[j], term);
    }
  }

  // By halves: 64, 32, ... 1.
  TARGET PYPROD_INLINE float folded() const {
    const __m512 sixteen = (partials[0] + partials[2]) + (partials[1] + partials[3]);
    const __m256 eight = _mm512_castps512_ps256(sixteen) + _mm512_extractf32x8_ps(sixteen, 1);
    const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
    const __m128 two = four + _mm_movehl_ps(four, four);
    return two[0] + two[1];
  }
};

template <Term kTerm>
TARGET PYPROD_INLINE float sum_of(const float* x, int64_t k, float mean) {
  Sum<kTerm> sum = {x, _mm512_set1_ps(mean)};
  each_64(k, sum);
  return sum.folded();
}

// The next row is asked for between its blocks, a line for every line of this one.
template <class T>
TARGET PYPROD_INLINE void prefetch_next(const Row& row, int64_t i) {
  prefetch<T>(row.next_x, i, i + kPartials);
  prefetch<T>(row.next_residual, i, i + kPartials);
}

// The largest magnitude_bits(), of four at a time.
struct Top {
  __m512i of[kVectors] = {};

  TARGET PYPROD_INLINE void fold(int j, __mmask16 lanes, __m512 x) {
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
    of[j] = _mm512_mask_max_epi32(of[j], lanes, of[j], bits);
  }
  TARGET PYPROD_INLINE int32_t all() const {
    return _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_max_epi32(of[0], of[1]), _mm512_max_epi32(of[2], of[3])));
  }
};

template <class T, bool kWeight, bool kBias, bool kMultiplier>
struct Normalize512 {
  const Norm& norm;
  const Row& row;
  const float* h;
  __m512 mean, factor;
  float* y;
  Top top = {};

  template <class Part>
  TARGET PYPROD_INLINE void operator()(int64_t i, Part part) {
    prefetch_next<T>(row, i);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      __m512 value = (part.load(h + i, j) - mean) * factor;
      if (kWeight) value = value * part.load(norm.weight + i, j);
      if (kBias) value = value + part.load(norm.bias + i, j);
      part.store(y + i, j, value);
      if (kMultiplier) value = value * part.load(norm.multiplier + i, j);
      top.fold(j, part.lanes(j), value);
    }
  }
};

template <bool kWeight, class Part>
TARGET PYPROD_INLINE __m512 product(const float* h, const float* weight, int j, Part part) {
  const __m512 x = part.load(h, j);
  return kWeight ? x * part.load(weight, j) : x;
}

template <class T, bool kWeight>
struct Largest512 {
  const Norm& norm;
  const Row& row;
  const float* h;
  Top top = {};

  template <class Part>
  TARGET PYPROD_INLINE void operator()(int64_t i, Part part) {
    prefetch_next<T>(row, i);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      top.fold(j, part.lanes(j), product<kWeight>(h + i, norm.weight + i, j, part));
    }
  }
};

template <bool kWeight>
struct Quantize512 {
  const float *h, *weight;
  __m512 inverse;
  int8_t* q;

  template <class Part>
  TARGET PYPROD_INLINE void operator()(int64_t i, Part part) const {
    __m512i rounded[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {  // round_scaled()
      const __m512 shifted = product<kWeight>(h + i, weight + i, j, part) * inverse + _mm512_set1_ps(12582912.0f);
      rounded[j] = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4b400000));
    }
    part.store(q + i, int8_gemm::pack_64(rounded[0], rounded[1], rounded[2], rounded[3]));
  }
};

// As Loops.
struct Loops512 {
  TARGET static float sum(const float* x, int64_t k) { return sum_of<Term::value>(x, k, 0.0f); }

  TARGET static float squares(const float* x, int64_t k, float mean) {
    return mean == 0.0f ? sum_of<Term::square>(x, k, mean) : sum_of<Term::centered_square>(x, k, mean);
  }

  template <class T, bool kWeight, bool kBias, bool kMultiplier>
  TARGET static int32_t normalize(const Norm& norm, const Row& row, const float* h, float mean, float factor,
                                  float* y) {
    Normalize512<T, kWeight, kBias, kMultiplier> step = {norm, row, h, _mm512_set1_ps(mean), _mm512_set1_ps(factor), y};
    each_64(norm.k, step);
    return step.top.all();
  }

  template <class T, bool kWeight>
  TARGET static int32_t largest_of(const Norm& norm, const Row& row, const float* h) {
    Largest512<T, kWeight> step = {norm, row, h};
    each_64(norm.k, step);
    return step.top.all();
  }

  template <bool kWeight>
  TARGET static float quantize(const float* h, const float* weight, int64_t k, int32_t top, int8_t* q) {
    const float scale = row_scale(top);
    if (!is_finite_magnitude(top)) {
      std::memset(q, 0, static_cast<size_t>(k));
      return scale;
    }
    Quantize512<kWeight> step = {h, weight, _mm512_set1_ps(1.0f / scale), q};
    each_64(k, step);
    return scale;
  }
};

TARGET void row(const Norm& norm, const Row& row, float* scratch) { run<Loops512>(norm, row, scratch); }

}  // namespace

const Kernel kAvx512 = row;

}  // namespace pyprod::norm

#endif
