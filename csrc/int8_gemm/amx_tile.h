#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "common/amx.h"
#include "int8_gemm/finish_avx512.h"

// The micro-kernel of the AMX path: up to 32 rows by a panel by any k, with the epilogue of the tile before and the
// fetching of weights to come woven in. amx.cpp decides what is multiplied when.

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-int8,prefer-vector-width=512")))

namespace pyprod::int8_gemm::amx {

inline constexpr int kRows = 32;                  // 2 x 2 tiles of sums, 2 of activations, 2 of weights: all eight
inline constexpr int kHalf = 16;                  // rows and channels of a tile
inline constexpr int kStep = 64;                  // k of a tile
inline constexpr int kStepWords = kStep / 4;      // a panel's rows in a tile of weights
inline constexpr int64_t kAccBytes = kPanel * 4;  // a row of sums

// Of this thread: the height its tiles are configured for, 0: not configured.
inline thread_local int configured_rows = 0;

// Sums are tiles 0 to 3 (rows 0-15, 0-15, 16-31, 16-31), activations 4 and 5, weights 6 and 7.
inline void configure(int rows) {
  if (configured_rows == rows) return;
  TileConfig config;
  const int height[] = {std::min(rows, kHalf), std::max(rows - kHalf, 0)};
  for (int t = 0; t < 8; ++t) {
    const int tall = t >= 6 ? kHalf : height[t == 2 || t == 3 || t == 5];
    config.rows[t] = static_cast<uint8_t>(tall);
    config.row_bytes[t] = tall > 0 ? kStep : 0;
  }
  TILE_CONFIGURE(config);
  configured_rows = rows;
}

inline void release() {
  if (configured_rows != 0) TILE_RELEASE();
  configured_rows = 0;
}

TARGET inline void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                          const int8_t* panel) {
  finish_avx512(e, m, rows, n, cols, acc, panel);
}

// The last words of a panel, zeros after them: a tile read in place would reach beyond the weight.
PYPROD_INLINE void copy_tail(const int8_t* weights, int64_t words, int8_t* tail) {
  std::memcpy(tail, weights, static_cast<size_t>(words * kRowBytes));
  std::memset(tail + words * kRowBytes, 0, static_cast<size_t>((kStepWords - words) * kRowBytes));
}

// A step of one tile of rows, or of two: adds a[rows, 64] * weights to the sums.
template <bool kTwo>
PYPROD_INLINE void step(const char* a, int64_t stride, const int8_t* weights) {
  TILE_LOAD(4, a, stride);
  if constexpr (kTwo) TILE_LOAD(5, a + kHalf * stride, stride);
  TILE_LOAD_ONCE(6, weights, kRowBytes);
  TILE_MULTIPLY(0, 4, 6);
  if constexpr (kTwo) TILE_MULTIPLY(2, 5, 6);
  TILE_LOAD_ONCE(7, weights + kStep, kRowBytes);
  TILE_MULTIPLY(1, 4, 7);
  if constexpr (kTwo) TILE_MULTIPLY(3, 5, 7);
}

// A finished tile whose epilogue is yet to run: it is interleaved with the next tile's steps, a few rows after each,
// because the vector units and the store buffer are idle while the tile unit multiplies.
struct Pending {
  const Epilogue* epilogue = nullptr;
  int64_t m = 0, n = 0;
  int rows = 0, cols = 0, done = 0;
  const int32_t* acc = nullptr;
  const int8_t* panel = nullptr;
};

// Finishes rows until `until` are done; whole groups of four (finish_tile) unless it is the end.
PYPROD_INLINE void advance(Pending& p, int until) {
  until = until >= p.rows ? p.rows : until / 4 * 4;
  if (until <= p.done) return;
  finish(*p.epilogue, p.m + p.done, until - p.done, p.n, p.cols, p.acc + p.done * kPanel, p.panel);
  p.done = until;
}

// Bytes that are needed after these, fetched into L2 bit by bit while the tile unit multiplies: L3 gives 8 bytes per
// cycle, a tile of 32 rows takes 32. `lines` lines after each step, from `rows` rows of `width` bytes at a distance.
struct Ahead {
  const char* row = nullptr;
  int64_t width = 0, distance = 0, rows = 0;
  int64_t lines = 0, at = 0;
};

PYPROD_INLINE void fetch(Ahead& ahead) {
  for (int64_t i = 0; i < ahead.lines && ahead.rows > 0; ++i) {
    _mm_prefetch(ahead.row + ahead.at, _MM_HINT_T1);
    ahead.at += 64;
    if (ahead.at < ahead.width) continue;
    ahead.at = 0;
    ahead.row += ahead.distance;
    --ahead.rows;
  }
}

// `words` fours of k of some rows and a panel.
struct Factors {
  const char* a;
  int64_t stride;
  const int8_t* weights;
  int64_t words;
};

// acc = the product, added to `start` if there is one.
template <bool kTwo>
TARGET void multiply(const Factors& f, const int32_t* start, int32_t* acc, Pending& previous, Ahead& ahead) {
  if (start != nullptr) {
    TILE_LOAD(0, start, kAccBytes);
    TILE_LOAD(1, start + kHalf, kAccBytes);
    if constexpr (kTwo) {
      TILE_LOAD(2, start + kHalf * kPanel, kAccBytes);
      TILE_LOAD(3, start + kHalf * kPanel + kHalf, kAccBytes);
    }
  } else {
    TILE_ZERO(0);
    TILE_ZERO(1);
    if constexpr (kTwo) {
      TILE_ZERO(2);
      TILE_ZERO(3);
    }
  }
  const char* a = f.a;
  const int8_t* weights = f.weights;
  const int64_t steps = ceil_div(f.words, kStepWords);
  const int share = static_cast<int>(steps > 0 ? ceil_div(256 * int64_t{previous.rows}, steps) : 0);  // 1/256 rows
  int due = 0;
  for (int64_t i = 0; i < f.words / kStepWords; ++i, a += kStep, weights += kStepWords * kRowBytes) {
    step<kTwo>(a, f.stride, weights);
    fetch(ahead);
    due += share;
    advance(previous, due >> 8);
  }
  if (f.words % kStepWords > 0) {
    alignas(64) int8_t tail[kStepWords * kRowBytes];
    copy_tail(weights, f.words % kStepWords, tail);
    step<kTwo>(a, f.stride, tail);
  }
  advance(previous, previous.rows);
  TILE_STORE(0, acc, kAccBytes);
  TILE_STORE(1, acc + kHalf, kAccBytes);
  if constexpr (kTwo) {
    TILE_STORE(2, acc + kHalf * kPanel, kAccBytes);
    TILE_STORE(3, acc + kHalf * kPanel + kHalf, kAccBytes);
  }
}

inline void multiply(int rows, const Factors& f, const int32_t* start, int32_t* acc, Pending& previous, Ahead& ahead) {
  configure(rows);
  if (rows > kHalf) {
    multiply<true>(f, start, acc, previous, ahead);
  } else {
    multiply<false>(f, start, acc, previous, ahead);
  }
}

}  // namespace pyprod::int8_gemm::amx
