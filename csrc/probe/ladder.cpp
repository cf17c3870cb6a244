#include "probe/ladder.h"

#include <algorithm>
#include <cstring>

#include "common/cpu_features.h"
#include "int8_gemm/layout.h"
#include "probe/tiles.h"

#if defined(__x86_64__)
// GCC 12 takes the undefined operands inside its own AVX-512 intrinsics for variables of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif

namespace pyprod::probe {
namespace {

using int8_gemm::ceil_div;
using int8_gemm::kPanel;
using int8_gemm::kRowBytes;
using int8_gemm::panel_bytes;

bool always() { return true; }

// Three loops: what g++ makes of them for any x86-64.
void naive(const int8_t* a, const int8_t* w, int64_t m, int64_t n, int64_t k, int32_t* out) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int32_t sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += a[i * k + c] * w[j * k + c];
      out[i * n + j] = sum;
    }
  }
}

// Calls block(i, j, rows, channels) for blocks of at most 4 rows by 4 channels, each of which the caches give once for
// four sums: both sides are read a quarter as often.
template <class Block>
void each_block(int64_t m, int64_t n, const Block& block) {
  for (int64_t j = 0; j < n; j += 4) {
    for (int64_t i = 0; i < m; i += 4) {
      block(i, j, static_cast<int>(std::min<int64_t>(4, m - i)), static_cast<int>(std::min<int64_t>(4, n - j)));
    }
  }
}

#if defined(__x86_64__)

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

bool has_avx512() {
  const CpuFeatures has = detect_cpu();
  return has.avx512f && has.avx512bw && has.avx512dq && has.avx512vl;
}

bool has_vnni() { return has_avx512() && detect_cpu().avx512_vnni; }

bool has_tiles() {
  const CpuFeatures has = detect_cpu();
  return has_vnni() && has.amx_tile && has.amx_int8 && tiles_permitted();
}

__mmask64 first_bytes(int64_t count) { return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1; }

// Sixteen sums in registers; both sides widened to int16, because vpmaddubsw saturates.
AVX512 void blocked_part(const int8_t* a, const int8_t* w, int64_t k, int rows, int channels, int32_t* out, int64_t n) {
  __m512i sums[4][4] = {};
  for (int64_t c = 0; c < k; c += 32) {
    const __mmask32 mask = static_cast<__mmask32>(first_bytes(std::min<int64_t>(32, k - c)));
    __m512i x[4], y[4];
    for (int r = 0; r < 4; ++r) {  // a row or channel beyond the end: the last one again
      x[r] = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, a + std::min(r, rows - 1) * k + c));
      y[r] = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, w + std::min(r, channels - 1) * k + c));
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) sums[r][s] = _mm512_add_epi32(sums[r][s], _mm512_madd_epi16(x[r], y[s]));
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int s = 0; s < channels; ++s) out[r * n + s] = _mm512_reduce_add_epi32(sums[r][s]);
  }
}

void blocked(const int8_t* a, const int8_t* w, int64_t m, int64_t n, int64_t k, int32_t* out) {
  each_block(m, n, [&](int64_t i, int64_t j, int rows, int channels) {
    blocked_part(a + i * k, w + j * k, k, rows, channels, out + i * n + j, n);
  });
}

// The same block by vpdpbusd, four products in one step. It multiplies unsigned by signed, so rows are taken as a + 128
// and 128 * sum(w) is subtracted.
VNNI void vnni_part(const int8_t* a, const int8_t* w, int64_t k, int rows, int channels, int32_t* out, int64_t n) {
  const __m512i flip = _mm512_set1_epi8(-128);
  __m512i sums[4][4] = {}, extra[4] = {};
  for (int64_t c = 0; c < k; c += 64) {
    const __mmask64 mask = first_bytes(k - c);
    __m512i x[4], y[4];
    for (int r = 0; r < 4; ++r) {
      x[r] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, a + std::min(r, rows - 1) * k + c), flip);
      y[r] = _mm512_maskz_loadu_epi8(mask, w + std::min(r, channels - 1) * k + c);
      extra[r] = _mm512_dpbusd_epi32(extra[r], flip, y[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) sums[r][s] = _mm512_dpbusd_epi32(sums[r][s], x[r], y[s]);
    }
  }
  for (int s = 0; s < channels; ++s) {
    const int32_t surplus = _mm512_reduce_add_epi32(extra[s]);
    for (int r = 0; r < rows; ++r) out[r * n + s] = _mm512_reduce_add_epi32(sums[r][s]) - surplus;
  }
}

void vnni(const int8_t* a, const int8_t* w, int64_t m, int64_t n, int64_t k, int32_t* out) {
  each_block(m, n, [&](int64_t i, int64_t j, int rows, int channels) {
    vnni_part(a + i * k, w + j * k, k, rows, channels, out + i * n + j, n);
  });
}

constexpr int kRows = 8;  // as many as g++ 12 keeps in registers

// Adds four k of 8 rows times a panel's row to the sums; `fours` holds each row's activations, as a + 128.
VNNI inline __attribute__((always_inline)) void packed_word(const int32_t* fours, const int8_t* panel,
                                                            __m512i (&sums)[kRows][2]) {
  const __m512i low = _mm512_loadu_si512(panel), high = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const __m512i x = _mm512_set1_epi32(fours[r] ^ static_cast<int32_t>(0x80808080));
    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], x, low);
    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], x, high);
  }
}

// Packed weights: a vector holds 16 channels, so no sum is ever added up across a vector, and the panel's first row has
// taken care of the 128. A row beyond the end: the last one again.
VNNI void packed_part(const int8_t* a, const int8_t* panel, int64_t k, int rows, int64_t columns, int32_t* out,
                      int64_t n) {
  const uint64_t present = columns >= kPanel ? ~uint64_t{0} : (uint64_t{1} << columns) - 1;
  int64_t at[kRows];
  for (int r = 0; r < kRows; ++r) at[r] = std::min(r, rows - 1) * k;
  __m512i sums[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    sums[r][0] = _mm512_loadu_si512(panel);
    sums[r][1] = _mm512_loadu_si512(panel + 64);
  }
  panel += kRowBytes;
  int32_t fours[kRows] = {};
  int64_t c = 0;
  for (; c + 4 <= k; c += 4, panel += kRowBytes) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) std::memcpy(&fours[r], a + at[r] + c, 4);
    packed_word(fours, panel, sums);
  }
  if (c < k) {
    for (int r = 0; r < kRows; ++r) std::memcpy(&fours[r], a + at[r] + c, static_cast<size_t>(k - c));
    packed_word(fours, panel, sums);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    _mm512_mask_storeu_epi32(out + r * n, static_cast<__mmask16>(present), sums[r][0]);
    _mm512_mask_storeu_epi32(out + r * n + 16, static_cast<__mmask16>(present >> 16), sums[r][1]);
  }
}

void packed(const int8_t* a, const int8_t* w, int64_t m, int64_t n, int64_t k, int32_t* out) {
  for (int64_t j = 0; j < n; j += kPanel) {
    const int8_t* panel = w + j / kPanel * panel_bytes(k);
    for (int64_t i = 0; i < m; i += kRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kRows, m - i));
      packed_part(a + i * k, panel, k, rows, n - j, out + i * n + j, n);
    }
  }
}

// 32 rows by a panel with AMX, as its manual shows it: loads and products in turn, the sums stored and then copied.
void tiles_part(const int8_t* a, int64_t stride, const int8_t* panel, int64_t steps, int32_t* sums) {
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  panel += kRowBytes;
  for (int64_t s = 0; s < steps; ++s, a += 64, panel += 16 * kRowBytes) {
    TILE_LOAD(4, a, stride);
    TILE_LOAD(5, a + 16 * stride, stride);
    TILE_LOAD(6, panel, kRowBytes);
    TILE_LOAD(7, panel + 64, kRowBytes);
    TILE_MULTIPLY(0, 4, 6);
    TILE_MULTIPLY(1, 4, 7);
    TILE_MULTIPLY(2, 5, 6);
    TILE_MULTIPLY(3, 5, 7);
  }
  TILE_STORE(0, sums, kRowBytes);
  TILE_STORE(1, sums + 16, kRowBytes);
  TILE_STORE(2, sums + 16 * kPanel, kRowBytes);
  TILE_STORE(3, sums + 16 * kPanel + 16, kRowBytes);
}

// Rows, and the end of each panel, are copied to where a tile may read beyond them.
void tiles(const int8_t* a, const int8_t* w, int64_t m, int64_t n, int64_t k, int32_t* out) {
  const int64_t whole = k / 64, steps = ceil_div(k, 64), stride = 64 * steps;
  std::vector<int8_t> rows(static_cast<size_t>(32 * stride)), panel(static_cast<size_t>(kRowBytes + steps * 2048));
  alignas(64) int32_t sums[32 * kPanel];
  in_tiles([&] {
    for (int64_t i = 0; i < m; i += 32) {
      const int64_t height = std::min<int64_t>(32, m - i);
      for (int64_t r = 0; r < height; ++r) std::memcpy(&rows[r * stride], a + (i + r) * k, static_cast<size_t>(k));
      for (int64_t j = 0; j < n; j += kPanel) {
        const int8_t* from = w + j / kPanel * panel_bytes(k);
        if (whole < steps) {
          std::memcpy(panel.data(), from, static_cast<size_t>(panel_bytes(k)));
          from = panel.data();
        }
        tiles_part(rows.data(), stride, from, steps, sums);
        const size_t bytes = static_cast<size_t>(std::min<int64_t>(kPanel, n - j)) * sizeof(int32_t);
        for (int64_t r = 0; r < height; ++r) std::memcpy(out + (i + r) * n + j, sums + r * kPanel, bytes);
      }
    }
  });
}

#endif

}  // namespace

const std::vector<Rung>& ladder() {
  static const std::vector<Rung> rungs = {
      {"naive", always, false, naive},
#if defined(__x86_64__)
      {"blocked", has_avx512, false, blocked}, {"vnni", has_vnni, false, vnni},
      {"packed", has_vnni, true, packed},      {"tiles", has_tiles, true, tiles},
#endif
  };
  return rungs;
}

}  // namespace pyprod::probe
