// AVX2: vpmaddubsw is exact here, since 2 * 15 * 127 is far from the end of int16; so is the sum of its two nibbles.

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "int4_linear/rows.h"

#define TARGET __attribute__((target("avx2")))

namespace pyprod::int4_linear {
namespace {

constexpr int kParts = kPanel / 8;  // registers of 8 channels

TARGET void prepare(const Linear& linear, const void* x, int64_t m) { prepare_row(linear, x, m); }

TARGET inline __m256i broadcast_word(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, sizeof four);
  return _mm256_set1_epi32(four);
}

// dot[n] of one group.
TARGET inline void dot_group(const int8_t* q, const uint8_t* words, int64_t group, int32_t* dot) {
  const __m256i mask = _mm256_set1_epi8(0x0f), ones = _mm256_set1_epi16(1);
  __m256i sums[kParts];
  for (__m256i& s : sums) s = _mm256_setzero_si256();
  for (int64_t k = 0; k < group; k += 8, words += kWordBytes) {
    const __m256i x0 = broadcast_word(q + k), x1 = broadcast_word(q + k + 4);
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 32 * p));
      const __m256i low = _mm256_and_si256(w, mask), high = _mm256_and_si256(_mm256_srli_epi16(w, 4), mask);
      const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, x0), _mm256_maddubs_epi16(high, x1));
      sums[p] = _mm256_add_epi32(sums[p], _mm256_madd_epi16(pairs, ones));
    }
  }
  for (int p = 0; p < kParts; ++p) _mm256_storeu_si256(reinterpret_cast<__m256i*>(dot + 8 * p), sums[p]);
}

TARGET void tile(const Linear& linear, int64_t m, int, int64_t panel) {
  const int64_t bytes = group_bytes(linear.group, linear.zeros);
  const uint8_t* from = linear.packed + panel * linear.groups * bytes;
  const int8_t* q = linear.q + m * linear.groups * linear.group;
  float acc[kPanel] = {};
  for (int64_t g = 0; g < linear.groups; ++g, from += bytes, q += linear.group) {
    int32_t dot[kPanel];
    dot_group(q, from + (linear.zeros ? 2 : 1) * kHeaderBytes, linear.group, dot);
    add_group(linear, from, linear.sums[m * linear.groups + g], dot, acc);
  }
  finish_row(linear, m, panel, acc);
}

}  // namespace

const Path kAvx2 = {1, prepare, tile};

}  // namespace pyprod::int4_linear

#endif
