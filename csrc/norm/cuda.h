#pragma once

#include "norm/path.h"

namespace pyprod::norm {

// m rows on the GPU, each as Row says; `x` and `residual` with rows their stride in bytes apart, the results
// contiguous.
struct CudaRows {
  Norm norm;
  int64_t m;
  const void* x;
  int64_t x_stride;
  const void* residual;
  int64_t residual_stride;
  void* sum;
  void* normalized;
  int8_t* q;
  float* scale;
};

// Null, or CUDA's message.
const char* launch(const CudaRows& rows, void* stream);

}  // namespace pyprod::norm
