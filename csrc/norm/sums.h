#pragma once

#include <cstdint>

#include "common/inline.h"

// The order of a sum over a row, the same on every path: element i goes to partial sum i % 64, from front to back, and
// the partial sums are folded by halves: 64, 32, ... 1. 64 is four zmm registers: enough to hide the latency of an add.

namespace pyprod::norm {

inline constexpr int kPartials = 64;

// Adds what is left of the row after its whole blocks of 64, then folds.
template <bool kSquare>
PYPROD_INLINE float finish_sum(float* partial, const float* rest, int64_t count, float mean) {
  for (int64_t i = 0; i < count; ++i) {
    const float d = rest[i] - mean;
    partial[i] += kSquare ? d * d : rest[i];
  }
  for (int half = kPartials / 2; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) partial[i] += partial[i + half];
  return partial[0];
}

}  // namespace pyprod::norm
