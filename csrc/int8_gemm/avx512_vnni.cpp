// AVX512-VNNI: vpdpbusd multiplies unsigned by signed bytes, so activations are kept as q + 128 and accumulators
// start at the panel's -128 * sum(w) (layout.h). The sum wraps modulo 2^32 on the way and is exact at the end.

#if defined(__x86_64__)

#include <immintrin.h>

#include "int8_gemm/quantize_avx512.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

namespace pyprod::int8_gemm {
namespace {

constexpr int kRows = 10;    // 10 rows x 2 vectors: 20 accumulators, 2 weights, 1 activation of 32 registers
constexpr int kFewRows = 4;  // up to here several panels at a time

TARGET void prepare(const int8_t* a, int64_t k, void* prepared) {
  prepare_row<uint8_t, 128>(a, k, static_cast<uint8_t*>(prepared));
}

TARGET void prepare_unsigned(const uint8_t* a, int64_t k, void* prepared) {
  prepare_row<uint8_t, 0>(a, k, static_cast<uint8_t*>(prepared));
}

TARGET RowCode prepare_quantized(const FloatRow& x, int64_t k, void* prepared) {
  std::memset(static_cast<char*>(prepared) + k, 0, static_cast<size_t>(padded_k(k) - k));
  return quantize_row_avx512<0x80>(x, k, prepared);
}

TARGET float quantize(const FloatRow& x, int64_t k, int8_t* q) { return quantize_row_avx512<0>(x, k, q).scale; }

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
#pragma GCC unroll 10
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

// Bytes of weights, of this panel or of the next, that many rows ask for in advance into L2: the processor's own
// prefetchers leave gaps between the panels of a block. Zen 4, GOP/s without / with: 8 rows of 14336 x 4096 360 / 429,
// 120 rows 442 / 453; 8 rows of 4096 x 4096 446 / 462; weights in L2 as before. 4 KB take a quarter from 8 rows. The
// end of a packed weight is overshot: a prefetch can't fault.
constexpr int64_t kAhead = 16384;

// Many rows: 5 fill the machine, more read each weight from L2 less often.
template <int R>
TARGET PYPROD_INLINE void many_rows(const char* a, int64_t stride, const int8_t* panel, int64_t k, Sums<R, 1>& sums) {
#pragma GCC unroll 10
  for (int r = 0; r < R; ++r) {
    sums.of[0][r][0] = _mm512_loadu_si512(panel);
    sums.of[0][r][1] = _mm512_loadu_si512(panel + 64);
  }
  const int8_t* weights = panel + kRowBytes;
  for (int64_t words = ceil_div(k, 4); words > 0; --words, weights += kRowBytes, a += 4) {
    _mm_prefetch(reinterpret_cast<const char*>(weights) + kAhead, _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(weights) + kAhead + 64, _MM_HINT_T1);
    add_word<R, 1>(a, stride, weights, 0, sums);
  }
}

template <int R>
TARGET void sums_of(const char* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  Sums<R, 1> sums;
  many_rows<R>(a, stride, panel, k, sums);
#pragma GCC unroll 10
  for (int r = 0; r < R; ++r) {
    _mm512_storeu_si512(acc + r * kPanel, sums.of[0][r][0]);
    _mm512_storeu_si512(acc + r * kPanel + 16, sums.of[0][r][1]);
  }
}

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  constexpr FewRows many[] = {sums_of<5>, sums_of<6>, sums_of<7>, sums_of<8>, sums_of<9>, sums_of<10>};
  const FewRows kernel = rows <= kFewRows ? kOnePanel[rows - 1] : many[rows - kFewRows - 1];
  kernel(static_cast<const char*>(a), stride, panel, k, acc);
}

TARGET void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                   const int8_t* panel) {
  finish_avx512(e, m, rows, n, cols, acc, panel);
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

// Rows [m, m + R) of a whole panel n, from registers to the output: sums, or floats without an activation. The way
// through memory takes 4% of a tile at K = 384 and 2% at 768, for stores alone.
template <int R>
TARGET void finished(const Epilogue& e, int64_t m, int64_t n, const char* a, int64_t stride, const int8_t* panel,
                     int64_t k) {
  Sums<R, 1> sums;
  many_rows<R>(a, stride, panel, k, sums);
  const int64_t at = m * e.out_stride + n;
  if (e.store == Store::sums) {
    int32_t* const out = static_cast<int32_t*>(e.out) + at;
#pragma GCC unroll 10
    for (int r = 0; r < R; ++r) {
      _mm512_storeu_si512(out + r * e.out_stride, sums.of[0][r][0]);
      _mm512_storeu_si512(out + r * e.out_stride + 16, sums.of[0][r][1]);
    }
    return;
  }
  const Channels c = load_channels(e, n, kPanel, panel);
  float* const out = static_cast<float*>(e.out) + at;
#pragma GCC unroll 10
  for (int r = 0; r < R; ++r) {
    const __m512 row_scale = _mm512_set1_ps(e.row_scale[m + r]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      _mm512_storeu_ps(out + r * e.out_stride + 16 * h,
                       dequantize<Activation::none>(c, h, sums.of[0][r][h], row_scale));
    }
  }
}

// Whether finished() does all of this epilogue.
bool is_plain(const Epilogue& e) {
  if (e.store == Store::sums) return true;
  return e.store == Store::floats && e.type == Float::f32 && e.activation == Activation::none &&
         e.residual == nullptr && e.row_scale != nullptr && e.row_zero_point == nullptr;
}

void block(const Block& b, const Epilogue& epilogue) {
  if (b.count <= kFewRows) return block_of_few_rows(b, epilogue);
  constexpr decltype(&finished<5>) plain[] = {finished<5>, finished<6>, finished<7>,
                                              finished<8>, finished<9>, finished<10>};
  const int64_t whole = is_plain(epilogue) ? std::clamp(b.n / kPanel, b.begin, b.end) : b.begin;
  const int64_t tiles = ceil_div(b.count, kRows);
  alignas(64) int32_t acc[kRows * kPanel];
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t r = t * b.count / tiles;
    const int height = static_cast<int>((t + 1) * b.count / tiles - r);
    const char* rows = b.rows + r * b.stride;
    for (int64_t p = b.begin; p < b.end; ++p) {
      const int8_t* panel = b.packed + p * panel_bytes(b.k);
      if (p < whole) {
        plain[height - kFewRows - 1](epilogue, b.m + r, p * kPanel, rows, b.stride, panel, b.k);
        continue;
      }
      tile(height, rows, b.stride, panel, b.k, acc);
      finish(epilogue, b.m + r, height, p * kPanel, columns(b, p), acc, panel);
    }
  }
}

}  // namespace

const Path kAvx512Vnni = {.tile_rows = kRows,
                          .activation_bytes = sizeof(uint8_t),
                          .flip = 0x80,
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
