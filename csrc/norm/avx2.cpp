// AVX2: the 64 partial sums are eight registers.

#if defined(__x86_64__)

#include <immintrin.h>

#include "norm/row.h"

#define TARGET __attribute__((target("avx2")))

namespace pyprod::norm {
namespace {

constexpr int kLanes = 8, kRegisters = kPartials / kLanes;

template <bool kSquare>
TARGET float sum_of(const float* x, int64_t k, float mean) {
  __m256 sums[kRegisters];
  for (__m256& s : sums) s = _mm256_setzero_ps();
  const __m256 m = _mm256_set1_ps(mean);
  int64_t i = 0;
  for (; i + kPartials <= k; i += kPartials) {
#pragma GCC unroll 8
    for (int j = 0; j < kRegisters; ++j) {
      const __m256 value = _mm256_loadu_ps(x + i + j * kLanes), d = _mm256_sub_ps(value, m);
      sums[j] = _mm256_add_ps(sums[j], kSquare ? _mm256_mul_ps(d, d) : value);
    }
  }
  alignas(32) float partial[kPartials];
  for (int j = 0; j < kRegisters; ++j) _mm256_store_ps(partial + j * kLanes, sums[j]);
  return finish_sum<kSquare>(partial, x + i, k - i, mean);
}

TARGET float sum(const float* x, int64_t k) { return sum_of<false>(x, k, 0.0f); }
TARGET float squares(const float* x, int64_t k, float mean) { return sum_of<true>(x, k, mean); }

TARGET void row(const Norm& norm, const Row& row, float* scratch) { run<Loops<sum, squares>>(norm, row, scratch); }

}  // namespace

const Kernel kAvx2 = row;

}  // namespace pyprod::norm

#endif
