#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/float_types.h"
#include "int8_gemm/layout.h"

// The CUDA kernels as plain functions: device pointers in, nothing of torch. Each returns null, or CUDA's message.

namespace pyprod::int8_gemm {

// Rows of int8 activations on the GPU are padded with zeros to whole 16-byte copies.
constexpr int64_t padded_row(int64_t k) { return ceil_div(k, 16) * 16; }

struct CudaGemm {
  const int8_t* a;  // [m, k], rows a_stride bytes apart, 16-byte aligned, zeros from k to padded_row(k)
  int64_t a_stride;
  const int8_t* packed;  // layout.h
  int64_t m, n, k;
  void* out;  // [m, n], contiguous
  // Null: out is the int32 sum. Else out is of type `type`, and the rest is what path.h's Epilogue says.
  const float* row_scale;
  const float* col_scale;
  const float* bias;
  Activation activation;
  const void* residual;  // [m, n], contiguous
  Float type;
};

const char* launch_gemm(const CudaGemm& gemm, void* stream);

// q[m, q_stride] and scale[m] from x[m, k] with rows x_stride elements apart; q is zero from k to q_stride.
const char* launch_quantize(Float type, const void* x, int64_t x_stride, int64_t m, int64_t k, int8_t* q,
                            int64_t q_stride, float* scale, void* stream);

}  // namespace pyprod::int8_gemm
