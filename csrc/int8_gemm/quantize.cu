// Per-token quantization: one block per row, two passes over it (the second one hits the cache).

#include <cuda_runtime.h>

#include "common/quantize.h"
#include "int8_gemm/cuda.h"

namespace pyprod::int8_gemm {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ int32_t warp_max(int32_t value) {
  for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

// The largest value of all threads of the block, in every thread.
__device__ __forceinline__ int32_t block_max(int32_t value) {
  __shared__ int32_t partial[kThreads / 32];
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_max(partial[threadIdx.x % (kThreads / 32)]);
}

template <class From>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const From* x, int64_t x_stride, int64_t k, int8_t* q, int64_t q_stride, float* scales) {
  const int64_t row = blockIdx.x;
  const From* from = x + row * x_stride;
  int8_t* to = q + row * q_stride;
  int32_t top = 0;
  for (int64_t i = threadIdx.x; i < k; i += kThreads) top = max(top, magnitude_bits(to_float(from[i])));
  top = block_max(top);
  const float scale = row_scale(top), inverse = 1.0f / scale;
  const bool finite = is_finite_magnitude(top);
  for (int64_t i = threadIdx.x; i < q_stride; i += kThreads)
    to[i] = finite && i < k ? static_cast<int8_t>(round_scaled(to_float(from[i]), inverse)) : int8_t{0};
  if (threadIdx.x == 0) scales[row] = scale;
}

template <class From>
void launch(const void* x, int64_t x_stride, int64_t m, int64_t k, int8_t* q, int64_t q_stride, float* scale,
            void* stream) {
  quantize_kernel<From><<<static_cast<unsigned>(m), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const From*>(x), x_stride, k, q, q_stride, scale);
}

}  // namespace

const char* launch_quantize(Float type, const void* x, int64_t x_stride, int64_t m, int64_t k, int8_t* q,
                            int64_t q_stride, float* scale, void* stream) {
  if (m == 0) return nullptr;
  if (type == Float::f32) {
    launch<float>(x, x_stride, m, k, q, q_stride, scale, stream);
  } else if (type == Float::bf16) {
    launch<BFloat16>(x, x_stride, m, k, q, q_stride, scale, stream);
  } else {
    launch<Float16>(x, x_stride, m, k, q, q_stride, scale, stream);
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace pyprod::int8_gemm
