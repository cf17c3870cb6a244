#pragma once

#include <cstdint>

#include "common/inline.h"

// Walking a row in blocks, between which the thread's next row is asked for: its lines arrive while this row, by then
// in cache, is computed. Without it rows of 3 KB wait at their start for the hardware's prefetcher to catch on (an RMS
// norm of 2048 x 768: 442 us instead of 307 on a Sapphire Rapids Xeon).

namespace pyprod {

inline constexpr int64_t kLine = 64;
inline constexpr int64_t kBlock = 256;  // elements between two bursts of prefetches, so that the loops still vectorize

// Elements [from, to) of a row of T; null: there is no next row.
template <class T>
PYPROD_INLINE void prefetch(const void* row, int64_t from, int64_t to) {
  if (row == nullptr) return;
  const char* bytes = static_cast<const char*>(row);
  const int64_t size = sizeof(T);
  for (int64_t at = from * size; at < to * size; at += kLine) __builtin_prefetch(bytes + at, 0, 3);
}

PYPROD_INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

// Calls block(from, to) for all blocks of k elements; returns the largest result.
template <class T, class Block>
PYPROD_INLINE int32_t largest(int64_t k, const void* next_a, const void* next_b, const Block& block) {
  int32_t top = 0;
  for (int64_t from = 0; from < k; from += kBlock) {
    const int64_t to = from + kBlock < k ? from + kBlock : k;
    prefetch<T>(next_a, from, to);
    prefetch<T>(next_b, from, to);
    top = larger(top, block(from, to));
  }
  return top;
}

}  // namespace pyprod
