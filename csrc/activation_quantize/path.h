#pragma once

#include <cstdint>

#include "common/float_types.h"

namespace pyprod::activation_quantize {

enum class Function { silu_mul, gelu, gelu_tanh };

// One row: y = silu(x) * up, or gelu(x), in float32 (common/activation.h), then quantized (common/quantize.h).
struct Row {
  Function function;
  Float type;  // of x and up
  int64_t k;
  const void* x;
  const void* up;      // silu_mul only
  const void* next_x;  // the rows that this thread reads next, or null: prefetched
  const void* next_up;
  int8_t* q;
  float* scale;
};

// Runs one row; y is k floats of scratch.
using Kernel = void (*)(const Row& row, float* y);

extern const Kernel kPortable;
#if defined(__x86_64__)
extern const Kernel kAvx2;
extern const Kernel kAvx512;
#endif

}  // namespace pyprod::activation_quantize
