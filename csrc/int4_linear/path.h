#pragma once

#include <cstdint>

#include "common/float_types.h"
#include "int4_linear/layout.h"

namespace pyprod::int4_linear {

// out[m, n] = (sum over groups g of (dot_g - zero_g * sum_g) * scale_g) * row_scale[m] + bias[n], where dot_g is the
// product of integers of a group and sum_g the sum of its activations. For groups of up to 128 both are below 2^24, so
// the parenthesis is exact in float32 where the zero point is an integer of 0..15; groups are added from front to back.
// Every path gives the same bits.
struct Linear {
  int64_t k, n;
  int64_t group, groups;
  bool zeros;  // false: every zero point is 8
  const uint8_t* packed;
  const float* bias;  // [n], or null
  Float type;         // of x and out
  char* out;          // [m, n]
  // Prepared activations.
  int8_t* q;         // [m, groups * group], zero from k on
  float* sums;       // [m, groups]
  float* row_scale;  // [m]
};

struct Path {
  int tile_rows;  // that tile() takes at most
  // Quantizes row m (common/quantize.h) of x into q, sums and row_scale.
  void (*prepare)(const Linear& linear, const void* x, int64_t m);
  // Computes rows [m, m + rows) of the columns of a panel.
  void (*tile)(const Linear& linear, int64_t m, int rows, int64_t panel);
};

extern const Path kPortable;
#if defined(__x86_64__)
extern const Path kAvx2;
extern const Path kAvx512Vnni;
#endif

}  // namespace pyprod::int4_linear
