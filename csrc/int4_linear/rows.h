#pragma once

#include "common/quantize.h"
#include "int4_linear/path.h"

// The parts of a path that need no intrinsics: each path instantiates them under its own target.

namespace pyprod::int4_linear {

PYPROD_INLINE void prepare_row(const Linear& linear, const void* x, int64_t m) {
  const int64_t padded = linear.groups * linear.group;
  int8_t* q = linear.q + m * padded;
  linear.row_scale[m] = quantize_floats({linear.type, x}, linear.k, q).scale;
  for (int64_t i = linear.k; i < padded; ++i) q[i] = 0;
  for (int64_t g = 0; g < linear.groups; ++g) {
    int32_t sum = 0;
    for (int64_t i = 0; i < linear.group; ++i) sum += q[g * linear.group + i];
    linear.sums[m * linear.groups + g] = static_cast<float>(sum);
  }
}

// Adds a group, whose header is at `header`, to the sums of a row.
PYPROD_INLINE void add_group(const Linear& linear, const uint8_t* header, float sum, const int32_t* dot, float* acc) {
  const Float16 *scale = reinterpret_cast<const Float16*>(header), *zero = scale + kPanel;
  if (linear.zeros) {
    for (int n = 0; n < kPanel; ++n)
      acc[n] = acc[n] + (static_cast<float>(dot[n]) - to_float(zero[n]) * sum) * to_float(scale[n]);
  } else {
    for (int n = 0; n < kPanel; ++n) acc[n] = acc[n] + (static_cast<float>(dot[n]) - 8.0f * sum) * to_float(scale[n]);
  }
}

template <class Out>
PYPROD_INLINE void store(const float* y, int cols, Out* out) {
  for (int j = 0; j < cols; ++j) from_float(y[j], out[j]);
}

// Row m of a panel from its sums over all groups.
PYPROD_INLINE void finish_row(const Linear& linear, int64_t m, int64_t panel, const float* acc) {
  const int64_t first = panel * kPanel, at = m * linear.n + first;
  const int cols = static_cast<int>(linear.n - first < kPanel ? linear.n - first : kPanel);
  const float scale = linear.row_scale[m];
  float y[kPanel];
  for (int j = 0; j < kPanel; ++j) y[j] = acc[j] * scale;
  if (linear.bias != nullptr) {
    for (int j = 0; j < cols; ++j) y[j] = y[j] + linear.bias[first + j];
  }
  switch (linear.type) {
    case Float::f32:
      return store(y, cols, reinterpret_cast<float*>(linear.out) + at);
    case Float::bf16:
      return store(y, cols, reinterpret_cast<BFloat16*>(linear.out) + at);
    case Float::f16:
      return store(y, cols, reinterpret_cast<Float16*>(linear.out) + at);
  }
}

}  // namespace pyprod::int4_linear
