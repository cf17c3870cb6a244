// INT8 GEMM by mma.sync for sm_80 and newer, with the epilogue of int8_linear.

#include <cuda_runtime.h>

#include "common/cuda/primitives.cuh"
#include "int8_gemm/cuda.h"

namespace pyprod::int8_gemm {
namespace {

constexpr int kDepth = 64;      // k of a stage
constexpr int kARow = 64 + 16;  // bytes of a row of A in shared memory: 20 words, so 8 rows x 4 words hit all 32 banks
constexpr int kBPad = 8;        // words added to a row of B: 4 rows x 8 words hit all 32 banks

// kM x kN of the output per block, split over kWarpsM x kWarpsN warps.
template <int kM_, int kN_, int kWarpsM_, int kWarpsN_>
struct Shape {
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
  static constexpr int kBRow = kN + kBPad;  // words
};

template <class S>
struct Stage {
  alignas(16) int8_t a[S::kM][kARow];
  alignas(16) uint32_t b[kDepth / 4][S::kBRow];
};

// Starts the copies of one stage; what lies outside of the matrices becomes zero.
template <class S>
__device__ __forceinline__ void load(const CudaGemm& g, Stage<S>& stage, int64_t m0, int64_t n0, int64_t k0) {
  for (int i = threadIdx.x; i < S::kM * (kDepth / 16); i += S::kThreads) {
    const int row = i / (kDepth / 16), chunk = i % (kDepth / 16);
    const int64_t m = m0 + row, k = k0 + 16 * chunk;
    const bool valid = m < g.m && k < g.k;
    cuda::cp_async16(&stage.a[row][16 * chunk], valid ? g.a + m * g.a_stride + k : g.a, valid);
  }
  const int64_t panels = ceil_div(g.n, kPanel), words = ceil_div(g.k, 4);
  for (int i = threadIdx.x; i < (kDepth / 4) * (S::kN / 4); i += S::kThreads) {
    const int row = i / (S::kN / 4), column = 4 * (i % (S::kN / 4));
    const int64_t word = k0 / 4 + row, panel = (n0 + column) / kPanel;
    const bool valid = word < words && panel < panels;
    const int8_t* from = g.packed + panel * panel_bytes(g.k) + (1 + word) * kRowBytes + 4 * (column % kPanel);
    cuda::cp_async16(&stage.b[row][column], valid ? from : g.packed, valid);
  }
}

template <class S>
__device__ __forceinline__ void multiply(const Stage<S>& stage, int32_t (&acc)[S::kTilesM][S::kTilesN][4]) {
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
  const int m0 = warp / S::kWarpsN * S::kWarpM + group, n0 = warp % S::kWarpsN * S::kWarpN + group;
#pragma unroll
  for (int k = 0; k < kDepth; k += 32) {
    uint32_t a[S::kTilesM][4], b[S::kTilesN][2];
#pragma unroll
    for (int i = 0; i < S::kTilesM; ++i)
#pragma unroll
      for (int part = 0; part < 4; ++part)
        a[i][part] =
            *reinterpret_cast<const uint32_t*>(&stage.a[m0 + 16 * i + part % 2 * 8][k + 4 * lane + part / 2 * 16]);
#pragma unroll
    for (int j = 0; j < S::kTilesN; ++j)
#pragma unroll
      for (int part = 0; part < 2; ++part) b[j][part] = stage.b[k / 4 + lane + 4 * part][n0 + 8 * j];
#pragma unroll
    for (int i = 0; i < S::kTilesM; ++i)
#pragma unroll
      for (int j = 0; j < S::kTilesN; ++j) cuda::mma_s8(acc[i][j], a[i], b[j]);
  }
}

__device__ __forceinline__ float activate(Activation activation, float y) {
  switch (activation) {
    case Activation::relu:
      return pyprod::activate<Activation::relu>(y);
    case Activation::gelu:
      return pyprod::activate<Activation::gelu>(y);
    case Activation::gelu_tanh:
      return pyprod::activate<Activation::gelu_tanh>(y);
    case Activation::silu:
      return pyprod::activate<Activation::silu>(y);
    default:
      return y;
  }
}

template <class Out>
__device__ __forceinline__ void store_as(const CudaGemm& g, int64_t at, float y) {
  if (g.residual != nullptr) y += to_float(static_cast<const Out*>(g.residual)[at]);
  from_float(y, static_cast<Out*>(g.out)[at]);
}

__device__ __forceinline__ void store(const CudaGemm& g, int64_t m, int64_t n, int32_t sum) {
  if (m >= g.m || n >= g.n) return;
  const int64_t at = m * g.n + n;
  if (g.row_scale == nullptr) {
    static_cast<int32_t*>(g.out)[at] = sum;
    return;
  }
  const float bias = g.bias != nullptr ? g.bias[n] : 0.0f;
  const float y = activate(g.activation, static_cast<float>(sum) * (g.row_scale[m] * g.col_scale[n]) + bias);
  if (g.type == Float::f32) {
    store_as<float>(g, at, y);
  } else if (g.type == Float::bf16) {
    store_as<BFloat16>(g, at, y);
  } else {
    store_as<Float16>(g, at, y);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) gemm_kernel(const __grid_constant__ CudaGemm g) {
  __shared__ Stage<S> stages[2];
  const int64_t m0 = int64_t{blockIdx.x} * S::kM, n0 = int64_t{blockIdx.y} * S::kN;
  int32_t acc[S::kTilesM][S::kTilesN][4] = {};
  const int64_t steps = ceil_div(g.k, kDepth);
  if (steps > 0) load<S>(g, stages[0], m0, n0, 0);
  cuda::cp_async_commit();
  for (int64_t step = 0; step < steps; ++step) {
    if (step + 1 < steps) load<S>(g, stages[(step + 1) % 2], m0, n0, (step + 1) * kDepth);
    cuda::cp_async_commit();
    cuda::cp_async_wait<1>();  // this step's stage is here; the next may still be on its way
    __syncthreads();
    multiply<S>(stages[step % 2], acc);
    __syncthreads();  // nobody reads this stage any more: the next turn fills it
  }
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
  const int64_t m = m0 + warp / S::kWarpsN * S::kWarpM + group, n = n0 + warp % S::kWarpsN * S::kWarpN + 2 * lane;
#pragma unroll
  for (int i = 0; i < S::kTilesM; ++i)
#pragma unroll
    for (int j = 0; j < S::kTilesN; ++j)
#pragma unroll
      for (int part = 0; part < 4; ++part) store(g, m + 16 * i + part / 2 * 8, n + 8 * j + part % 2, acc[i][j][part]);
}

template <class S>
const char* launch(const CudaGemm& g, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(g.m, S::kM)), static_cast<unsigned>(ceil_div(g.n, S::kN)));
  gemm_kernel<S><<<grid, S::kThreads, 0, stream>>>(g);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const char* launch_gemm(const CudaGemm& gemm, void* stream) {
  if (gemm.m == 0 || gemm.n == 0) return nullptr;
  const auto on = static_cast<cudaStream_t>(stream);
  // Few rows: a tall tile would multiply mostly zeros, and more, smaller blocks fill more of the GPU.
  return gemm.m <= 64 ? launch<Shape<32, 64, 2, 2>>(gemm, on) : launch<Shape<128, 128, 2, 4>>(gemm, on);
}

}  // namespace pyprod::int8_gemm
