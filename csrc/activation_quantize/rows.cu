// An activation, in float32, and the quantization of its rows, in one pass over memory.

#include "activation_quantize/cuda.h"
#include "common/activation.h"
#include "common/cuda/row.cuh"

namespace pyprod::activation_quantize {
namespace {

// Left alone, ptxas asks for GELU's table of all eight values first: 128 registers, room for two blocks.
constexpr int blocks_of(Function function) { return function == Function::gelu ? 3 : cuda::kRowBlocks; }

template <class T, Function kFunction, bool kWhole>
__global__ void __launch_bounds__(cuda::kRowThreads, blocks_of(kFunction))
    rows_kernel(const __grid_constant__ CudaRows rows) {
  const int64_t m = cuda::block_x();
  const auto row = [m](const void* from, int64_t stride) {
    return reinterpret_cast<const T*>(static_cast<const char*>(from) + m * stride);
  };
  const cuda::RowOf<T, kWhole> x = {row(rows.x, rows.x_stride), rows.k}, up = {row(rows.up, rows.up_stride), rows.k};
  const auto values = [&](int64_t i) {
    cuda::Eight y = x.eight(i);
    cuda::Eight factor = {};
    if constexpr (kFunction == Function::silu_mul) factor = up.eight(i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if constexpr (kFunction == Function::silu_mul) y.of[j] = silu(y.of[j]) * factor.of[j];
      if constexpr (kFunction == Function::gelu) y.of[j] = gelu(y.of[j]);
      if constexpr (kFunction == Function::gelu_tanh) y.of[j] = gelu_tanh(y.of[j]);
    }
    return y;
  };
  const cuda::QuantizedRow<kWhole> to = {rows.q + m * rows.k, rows.k, rows.k};
  cuda::quantize_row(values, to, rows.scale + m);
}

template <class T, Function kFunction>
const char* launch_as(const CudaRows& rows, void* stream) {
  const auto aligned = [](const void* from, int64_t stride) {
    return cuda::rows_aligned(static_cast<const T*>(from), stride / static_cast<int64_t>(sizeof(T)));
  };
  const bool whole = rows.k % 8 == 0 && aligned(rows.x, rows.x_stride) && aligned(rows.up, rows.up_stride) &&
                     cuda::rows_aligned(rows.q, rows.k);
  return cuda::launch(whole ? rows_kernel<T, kFunction, true> : rows_kernel<T, kFunction, false>,
                      {static_cast<int>(rows.m), 1, cuda::row_threads(rows.k), cuda::kRowShared}, stream, rows);
}

template <class T>
const char* launch_as(const CudaRows& rows, void* stream) {
  switch (rows.function) {
    case Function::silu_mul:
      return launch_as<T, Function::silu_mul>(rows, stream);
    case Function::gelu:
      return launch_as<T, Function::gelu>(rows, stream);
    default:
      return launch_as<T, Function::gelu_tanh>(rows, stream);
  }
}

}  // namespace

const char* launch(const CudaRows& rows, void* stream) {
  if (rows.m == 0) return nullptr;
  switch (rows.type) {
    case Float::f32:
      return launch_as<float>(rows, stream);
    case Float::bf16:
      return launch_as<BFloat16>(rows, stream);
    default:
      return launch_as<Float16>(rows, stream);
  }
}

}  // namespace pyprod::activation_quantize
