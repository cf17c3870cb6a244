#pragma once

#include <cstdint>

#include "common/float_types.h"

namespace pyprod::norm {

// What is done to every row, in float32 and exactly in this order, so that every path gives the same bits. With
// h = x + residual, rounded to `type`:
//     layer norm: mean = sum(h) / k;  factor = 1 / sqrt(sum((h - mean)^2) / k + eps)
//                 y = (h - mean) * factor * weight + bias;  q, scale of y * multiplier as common/quantize.h says
//     RMS norm:   factor = 1 / sqrt(sum(h^2) / k + eps);  v = h * weight;  y = v * factor
//                 q, s = v quantized;  scale = max(s * factor, FLT_MIN)
// A factor of the whole row changes the scale and not q: an RMS norm is two passes over the row and y is never stored.
// Sums are taken in the order of sums.h.
struct Norm {
  Float type;  // of x, residual, sum and normalized
  int64_t k;
  bool center;  // layer norm; false: RMS norm
  float eps;
  const float* weight;      // [k], or null
  const float* bias;        // [k], or null; null where weight is
  const float* multiplier;  // [k], or null; of a layer norm
  bool stream;              // write results past the cache (common/stream.h)
};

// One row; what is null is not read, or not wanted.
struct Row {
  const void* x;
  const void* residual;
  const void* next_x;  // the rows that this thread reads next: prefetched
  const void* next_residual;
  void* sum;         // h
  void* normalized;  // y
  int8_t* q;         // y * multiplier quantized
  float* scale;
};

// Floats of scratch for a row: h, y, and what is copied out.
constexpr int64_t scratch_floats(int64_t k) { return 3 * k; }

using Kernel = void (*)(const Norm& norm, const Row& row, float* scratch);

extern const Kernel kPortable;
#if defined(__x86_64__)
extern const Kernel kAvx2;
extern const Kernel kAvx512;
#endif

}  // namespace pyprod::norm
