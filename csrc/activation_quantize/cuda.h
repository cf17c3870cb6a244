#pragma once

#include "activation_quantize/path.h"

namespace pyprod::activation_quantize {

// m rows on the GPU; `x` and `up` with rows `x_stride` and `up_stride` bytes apart, the results contiguous.
struct CudaRows {
  Function function;
  Float type;
  int64_t m, k;
  const void* x;
  int64_t x_stride;
  const void* up;  // silu_mul only
  int64_t up_stride;
  int8_t* q;
  float* scale;
};

// Null, or CUDA's message.
const char* launch(const CudaRows& rows, void* stream);

}  // namespace pyprod::activation_quantize
