// AVX512-VNNI: the nibbles are the unsigned side of vpdpbusd, so activations stay signed. High nibbles are left where
// they are, 16 times too large, and their sum is shifted once per group: one AND per 64 weights instead of two and a
// shift.

#if defined(__x86_64__)

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of g++ 12 in its own intrinsics: GCC bug 105593
#include <immintrin.h>

#include <cstring>

#include "int4_linear/rows.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

namespace pyprod::int4_linear {
namespace {

constexpr int kRows = 4;
// Bytes of weight asked for in advance: 9.4 MB that are in no near cache then take 700 us instead of 950 on one core of
// a Sapphire Rapids Xeon; 2 KB and 8 KB do nearly as well. The end of a packed weight is overshot: a prefetch can't
// fault.
constexpr int64_t kAhead = 4096;

TARGET void prepare(const Linear& linear, const void* x, int64_t m) { prepare_row(linear, x, m); }

TARGET inline __m512i broadcast_word(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, sizeof four);
  return _mm512_set1_epi32(four);
}

TARGET inline __m512 load_half(const uint8_t* f16) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(f16)));
}

template <int R, bool kZeros>
TARGET void tile_rows(const Linear& linear, int64_t m, int64_t panel) {
  const int64_t bytes = group_bytes(linear.group, kZeros), padded = linear.groups * linear.group;
  const uint8_t* from = linear.packed + panel * linear.groups * bytes;
  const int8_t* q = linear.q + m * padded;
  const float* sums = linear.sums + m * linear.groups;
  const __m512i low_mask = _mm512_set1_epi8(0x0f), high_mask = _mm512_set1_epi8(static_cast<char>(0xf0));
  __m512 acc[R][2];
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
  for (int64_t g = 0; g < linear.groups; ++g, from += bytes) {
    __m512i low[R][2], high[R][2];
    for (int r = 0; r < R; ++r)
      for (int h = 0; h < 2; ++h) low[r][h] = high[r][h] = _mm512_setzero_si512();
    const uint8_t* words = from + (kZeros ? 2 : 1) * kHeaderBytes;
    for (const int8_t* end = q + linear.group; q < end; q += 8, words += kWordBytes) {
      const __m512i w0 = _mm512_loadu_si512(words), w1 = _mm512_loadu_si512(words + 64);
      _mm_prefetch(reinterpret_cast<const char*>(words) + kAhead, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(words) + kAhead + 64, _MM_HINT_T0);
      const __m512i l0 = _mm512_and_si512(w0, low_mask), h0 = _mm512_and_si512(w0, high_mask);
      const __m512i l1 = _mm512_and_si512(w1, low_mask), h1 = _mm512_and_si512(w1, high_mask);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512i x0 = broadcast_word(q + r * padded), x1 = broadcast_word(q + r * padded + 4);
        low[r][0] = _mm512_dpbusd_epi32(low[r][0], l0, x0);
        low[r][1] = _mm512_dpbusd_epi32(low[r][1], l1, x0);
        high[r][0] = _mm512_dpbusd_epi32(high[r][0], h0, x1);
        high[r][1] = _mm512_dpbusd_epi32(high[r][1], h1, x1);
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512 scale = load_half(from + 32 * h);
      const __m512 zero = kZeros ? load_half(from + kHeaderBytes + 32 * h) : _mm512_set1_ps(8.0f);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m512i dot = _mm512_add_epi32(low[r][h], _mm512_srai_epi32(high[r][h], 4));
        const __m512 shift = _mm512_mul_ps(zero, _mm512_set1_ps(sums[r * linear.groups + g]));
        const __m512 exact = _mm512_sub_ps(_mm512_cvtepi32_ps(dot), shift);
        acc[r][h] = _mm512_add_ps(acc[r][h], _mm512_mul_ps(exact, scale));
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    alignas(64) float row[kPanel];
    _mm512_store_ps(row, acc[r][0]);
    _mm512_store_ps(row + 16, acc[r][1]);
    finish_row(linear, m + r, panel, row);
  }
}

template <bool kZeros>
void tile(const Linear& linear, int64_t m, int rows, int64_t panel) {
  constexpr decltype(&tile_rows<1, kZeros>) by_rows[] = {tile_rows<1, kZeros>, tile_rows<2, kZeros>,
                                                         tile_rows<3, kZeros>, tile_rows<4, kZeros>};
  by_rows[rows - 1](linear, m, panel);
}

void tile(const Linear& linear, int64_t m, int rows, int64_t panel) {
  linear.zeros ? tile<true>(linear, m, rows, panel) : tile<false>(linear, m, rows, panel);
}

}  // namespace

const Path kAvx512Vnni = {kRows, prepare, tile};

}  // namespace pyprod::int4_linear

#endif
