#pragma once

#include <cstdint>

#include "common/quantize.h"
#include "int8_gemm/epilogue.h"
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
  Epilogue epilogue;
  bool whole_fours;  // n is a multiple of 4, and every pointer of the epilogue is aligned to four of its values
};

// By the kernel that suits the GPU of this thread.
const char* launch_gemm(const CudaGemm& gemm, void* stream);

// The kernels. wgmma: sm_90, k > 0; `processors`: multiprocessors that its blocks should fill.
const char* launch_mma(const CudaGemm& gemm, void* stream);
const char* launch_wgmma(const CudaGemm& gemm, void* stream, int processors);

// q[m, q_stride] and scale[m] from x[m, k] with rows x_stride elements apart; q is zero from k to q_stride. zero_point:
// [m], asymmetric, or null; x.asymmetric is not read.
const char* launch_quantize(const FloatRow& x, int64_t x_stride, int64_t m, int64_t k, int8_t* q, int64_t q_stride,
                            float* scale, int32_t* zero_point, void* stream);

// q[m, q_stride] from bytes x[m, k] with rows x_stride bytes apart; zero from k on. is_unsigned: x is uint8, lowered by
// 128 to be int8.
const char* launch_pad(bool is_unsigned, const void* x, int64_t x_stride, int64_t m, int64_t k, int8_t* q,
                       int64_t q_stride, void* stream);

}  // namespace pyprod::int8_gemm
