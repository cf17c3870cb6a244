// AVX512-VNNI: vpdpbusd multiplies unsigned by signed bytes, so activations are kept as q + 128 and accumulators
// start at the panel's -128 * sum(w) (layout.h). The sum wraps modulo 2^32 on the way and is exact at the end.

#if defined(__x86_64__)

#include <immintrin.h>

#include "int8_gemm/quantize_avx512.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

namespace pyprod::int8_gemm {
namespace {

constexpr int kRows = 12;    // 12 rows x 2 vectors: 24 accumulators, 2 weights, 1 activation of 32 registers
constexpr int kFewRows = 4;  // up to here several panels at a time

TARGET void prepare(const int8_t* a, int64_t k, void* prepared) {
  prepare_row<uint8_t, 128>(a, k, static_cast<uint8_t*>(prepared));
}

TARGET void prepare_unsigned(const uint8_t* a, int64_t k, void* prepared) {
  prepare_row<uint8_t, 0>(a, k, static_cast<uint8_t*>(prepared));
}

TARGET float prepare_quantized(Float type, const void* x, int64_t k, void* prepared) {
  std::memset(static_cast<char*>(prepared) + k, 0, static_cast<size_t>(padded_k(k) - k));
  return quantize_row_avx512<0x80>(type, x, k, prepared);
}

TARGET float quantize(Float type, const void* x, int64_t k, int8_t* q) { return quantize_row_avx512<0>(type, x, k, q); }

PYPROD_INLINE int32_t four_bytes(const char* a) {
  int32_t four;
  std::memcpy(&four, a, sizeof four);
  return four;
}

// Sums of R rows and P panels; a word of k adds to all of them.
template <int R, int P>
struct Sums {
  __m512i of[P][R][2];
};

template <int R, int P>
TARGET PYPROD_INLINE void add_word(const char* a, int64_t stride, const int8_t* weights, int64_t next,
                                   Sums<R, P>& sums) {
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    __m512i low = _mm512_loadu_si512(weights + p * next), high = _mm512_loadu_si512(weights + p * next + 64);
    // Or g++ loads each of them R times: three rows of weights in L2 then wait for loads (Zen 4: 59 GB/s, this: 71).
    asm("" : "+v"(low), "+v"(high));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi32(four_bytes(a + r * stride));
      sums.of[p][r][0] = _mm512_dpbusd_epi32(sums.of[p][r][0], x, low);
      sums.of[p][r][1] = _mm512_dpbusd_epi32(sums.of[p][r][1], x, high);
    }
  }
}

// Few rows: bound by reading the weights, and by latency. vpdpbusd takes 5 cycles and two start per cycle: R rows, P
// panels, and even and odd words of k apart where it needs that, give 10 independent accumulators or nearly.
template <int R, int P>
TARGET void few_rows(const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  constexpr bool kApart = R * P <= 2;
  const int64_t next = panel_bytes(k);
  Sums<R, P> even, odd;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      even.of[p][r][0] = _mm512_loadu_si512(panel + p * next);
      even.of[p][r][1] = _mm512_loadu_si512(panel + p * next + 64);
      odd.of[p][r][0] = odd.of[p][r][1] = _mm512_setzero_si512();
    }
  }
  const int8_t* weights = panel + kRowBytes;
  int64_t words = ceil_div(k, 4);
  for (; words >= 2; words -= 2, weights += 2 * kRowBytes, a += 8) {
    add_word<R, P>(a, stride, weights, next, even);
    add_word<R, P>(a + 4, stride, weights + kRowBytes, next, kApart ? odd : even);
  }
  if (words > 0) add_word<R, P>(a, stride, weights, next, even);
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512i sum = kApart ? _mm512_add_epi32(even.of[p][r][h], odd.of[p][r][h]) : even.of[p][r][h];
        _mm512_storeu_si512(acc + (p * R + r) * kPanel + 16 * h, sum);
      }
    }
  }
}

using FewRows = void (*)(const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc);
constexpr FewRows kOnePanel[] = {few_rows<1, 1>, few_rows<2, 1>, few_rows<3, 1>, few_rows<4, 1>};
constexpr FewRows kTwoPanels[] = {few_rows<1, 2>, few_rows<2, 2>, few_rows<3, 2>, few_rows<4, 2>};

// Many rows: in assembler, because g++ 12 spills accumulators from 9 rows on (12 rows: 630 GOP/s, this: 888 of a
// peak of 957, Xeon of the Sapphire Rapids generation). zmm28 and zmm29 hold the weights of one word of k, zmm30 a
// row's four activations; a0 is row 0, a3 row 3 and so on, so that every row is one addressing mode away.
//
// The weights 16 KB further on, of this panel or of the next, are fetched into L2: the processor's own prefetchers
// leave gaps between the panels of a block. Zen 4, GOP/s without / with: 8 rows of 14336 x 4096 355 / 428, 12 rows 310
// / 437, 120 rows 433 / 448; weights in L2 as before. 4 KB further on takes from 8 rows a quarter; into L1, 8 to 12
// rows gain half as much.
#define ROW(offset, address, low, high)  \
  "vpbroadcastd " offset address         \
  ", %%zmm30\n\t"                        \
  "vpdpbusd %%zmm28, %%zmm30, %%zmm" low \
  "\n\t"                                 \
  "vpdpbusd %%zmm29, %%zmm30, %%zmm" high "\n\t"
#define ROWS_5(o)                    \
  ROW(o, "(%[a0])", "0", "1")        \
  ROW(o, "(%[a0],%[s])", "2", "3")   \
  ROW(o, "(%[a0],%[s],2)", "4", "5") \
  ROW(o, "(%[a3])", "6", "7")        \
  ROW(o, "(%[a3],%[s])", "8", "9")
#define ROWS_6(o) ROWS_5(o) ROW(o, "(%[a3],%[s],2)", "10", "11")
#define ROWS_7(o) ROWS_6(o) ROW(o, "(%[a6])", "12", "13")
#define ROWS_8(o) ROWS_7(o) ROW(o, "(%[a6],%[s])", "14", "15")
#define ROWS_9(o) ROWS_8(o) ROW(o, "(%[a6],%[s],2)", "16", "17")
#define ROWS_10(o) ROWS_9(o) ROW(o, "(%[a9])", "18", "19")
#define ROWS_11(o) ROWS_10(o) ROW(o, "(%[a9],%[s])", "20", "21")
#define ROWS_12(o) ROWS_11(o) ROW(o, "(%[a9],%[s],2)", "22", "23")
#define WORD(rows, o, w0, w1) \
  "vmovdqu64 " w0             \
  "(%[w]), %%zmm28\n\t"       \
  "vmovdqu64 " w1             \
  "(%[w]), %%zmm29\n\t"       \
  "prefetcht1 16384+" w0      \
  "(%[w])\n\t"                \
  "prefetcht1 16384+" w1 "(%[w])\n\t" rows(o)

// Each row starts from the panel's first row, and is stored to acc.
#define START(low, high) "vmovdqu64 (%[w]), %%zmm" low "\n\tvmovdqu64 64(%[w]), %%zmm" high "\n\t"
#define STORE(low, high) "vmovdqu64 %%zmm" low ", (%[c])\n\tvmovdqu64 %%zmm" high ", 64(%[c])\n\tadd $128, %[c]\n\t"
#define EACH_5(f) f("0", "1") f("2", "3") f("4", "5") f("6", "7") f("8", "9")
#define EACH_6(f) EACH_5(f) f("10", "11")
#define EACH_7(f) EACH_6(f) f("12", "13")
#define EACH_8(f) EACH_7(f) f("14", "15")
#define EACH_9(f) EACH_8(f) f("16", "17")
#define EACH_10(f) EACH_9(f) f("18", "19")
#define EACH_11(f) EACH_10(f) f("20", "21")
#define EACH_12(f) EACH_11(f) f("22", "23")

#define MANY_ROWS(n)                                                                                                   \
  TARGET void rows_##n(const char* a0, int64_t stride, const int8_t* w, int64_t k, int32_t* c) {                       \
    const char *a3 = a0 + 3 * stride, *a6 = a0 + 6 * stride, *a9 = a0 + 9 * stride;                                    \
    int64_t fours = ceil_div(k, 4) / 4, ones = ceil_div(k, 4) % 4;                                                     \
    __asm__ volatile(EACH_##n(START) "add $128, %[w]\n\ttest %[fours], %[fours]\n\tjz 2f\n\t.p2align 5\n1:\n\t"      \
                     WORD(ROWS_##n, "0", "0", "64") WORD(ROWS_##n, "4", "128", "192")                                \
                     WORD(ROWS_##n, "8", "256", "320") WORD(ROWS_##n, "12", "384", "448")                            \
                     "add $512, %[w]\n\tadd $16, %[a0]\n\tadd $16, %[a3]\n\tadd $16, %[a6]\n\tadd $16, %[a9]\n\t"    \
                     "dec %[fours]\n\tjnz 1b\n2:\n\ttest %[ones], %[ones]\n\tjz 4f\n3:\n\t"                          \
                     WORD(ROWS_##n, "0", "0", "64")                                                                  \
                     "add $128, %[w]\n\tadd $4, %[a0]\n\tadd $4, %[a3]\n\tadd $4, %[a6]\n\tadd $4, %[a9]\n\t"        \
                     "dec %[ones]\n\tjnz 3b\n4:\n\t" EACH_##n(STORE)                                                 \
                     : [a0] "+r"(a0), [a3] "+r"(a3), [a6] "+r"(a6), [a9] "+r"(a9), [w] "+r"(w), [c] "+r"(c),         \
                       [fours] "+r"(fours), [ones] "+r"(ones)                                                        \
                     : [s] "r"(stride)                                                                               \
                     : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",       \
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",      \
                       "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm28", "xmm29", "xmm30"); \
  }
MANY_ROWS(5);
MANY_ROWS(6);
MANY_ROWS(7);
MANY_ROWS(8);
MANY_ROWS(9);
MANY_ROWS(10);
MANY_ROWS(11);
MANY_ROWS(12);

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  constexpr FewRows many[] = {rows_5, rows_6, rows_7, rows_8, rows_9, rows_10, rows_11, rows_12};
  const FewRows kernel = rows <= kFewRows ? kOnePanel[rows - 1] : many[rows - kFewRows - 1];
  kernel(static_cast<const char*>(a), stride, panel, k, acc);
}

TARGET void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                   const int8_t* panel) {
  finish_avx512(e, m, rows, n, cols, acc, panel);
}

void block_of_few_rows(const Block& b, const Epilogue& epilogue);

void block(const Block& b, const Epilogue& epilogue) {
  if (b.count <= kFewRows) return block_of_few_rows(b, epilogue);
  block_of_tiles(kAvx512Vnni, b, epilogue);
}

void block_of_few_rows(const Block& b, const Epilogue& epilogue) {
  const int rows = static_cast<int>(b.count);
  alignas(64) int32_t acc[2][kFewRows * kPanel];
  for (int64_t p = b.begin; p < b.end; p += 2) {
    const int8_t* panel = b.packed + p * panel_bytes(b.k);
    const bool two = p + 1 < b.end;
    (two ? kTwoPanels : kOnePanel)[rows - 1](b.rows, b.stride, panel, b.k, acc[0]);
    finish(epilogue, b.m, rows, p * kPanel, columns(b, p), acc[0], panel);
    if (!two) return;
    finish(epilogue, b.m, rows, (p + 1) * kPanel, columns(b, p + 1), acc[0] + rows * kPanel, panel + panel_bytes(b.k));
  }
}

}  // namespace

const Path kAvx512Vnni = {.tile_rows = kRows,
                          .activation_bytes = sizeof(uint8_t),
                          .macs_per_nanosecond = 350,
                          .prepare = prepare,
                          .prepare_unsigned = prepare_unsigned,
                          .prepare_quantized = prepare_quantized,
                          .quantize = quantize,
                          .tile = tile,
                          .finish = finish,
                          .block = block};

}  // namespace pyprod::int8_gemm

#endif
