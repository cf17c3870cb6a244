// INT8 GEMM by mma.sync and cp.async, sm_80 and newer: any m, n, k.

#include "int8_gemm/finish.cuh"

namespace pyprod::int8_gemm {
namespace {

constexpr int kDepth = 64;  // k of a stage, of one of the warps that share k

// A block's tile: warps lie kWarpsN x kWarpsM x kWarpsK over its channels, tokens and k; each multiplies kPanels panels
// by kTokens tokens.
template <int kWarpsN_, int kWarpsM_, int kWarpsK_, int kPanels_, int kTokens_, int kStages_>
struct Shape {
  static constexpr int kWarpsN = kWarpsN_, kWarpsM = kWarpsM_, kWarpsK = kWarpsK_;
  static constexpr int kPanels = kPanels_, kTokens = kTokens_, kStages = kStages_;
  static constexpr int kThreads = 32 * kWarpsN * kWarpsM * kWarpsK;
  static constexpr int kBlockPanels = kWarpsN * kPanels, kBlockChannels = kPanel * kBlockPanels;
  static constexpr int kBlockTokens = kWarpsM * kTokens, kBlockDepth = kDepth * kWarpsK;
};

template <class S>
struct Stage {
  alignas(128) uint8_t weights[S::kBlockPanels][S::kBlockDepth / 4][128];
  alignas(128) int8_t tokens[S::kWarpsK][S::kBlockTokens][kDepth];
};

template <class S>
union Shared {
  Stage<S> stages[S::kStages];
  Sums sums[S::kWarpsK][S::kBlockTokens * S::kBlockChannels / 4];  // when the stages are done
};

// Two 64-byte rows of tokens fill the banks: eight rows' chunks at one k, exchanged so, touch all of them once.
__device__ __forceinline__ int token_chunk(int row, int chunk) { return chunk ^ (row / 2 % 4); }

// Starts the copies of one stage; what lies outside of the matrices becomes zero.
template <class S>
__device__ __forceinline__ void load(const CudaGemm& gemm, Stage<S>& stage, int64_t m0, int64_t panel0, int64_t k0) {
  constexpr int kRows = S::kBlockDepth / 4, kChunks = S::kBlockDepth / 16;
  const int64_t panels = ceil_div(gemm.n, kPanel), words = ceil_div(gemm.k, 4);
  for (int i = cuda::thread(); i < S::kBlockPanels * kRows * 8; i += S::kThreads) {
    const int chunk = i % 8, row = i / 8 % kRows, panel = i / 8 / kRows;
    const int64_t word = k0 / 4 + row;
    const bool valid = word < words && panel0 + panel < panels;
    const int8_t* from = gemm.packed + (panel0 + panel) * panel_bytes(gemm.k) + (1 + word) * kRowBytes + 16 * chunk;
    cuda::cp_async16(&stage.weights[panel][row][16 * (chunk ^ row % 8)], valid ? from : gemm.packed, valid);
  }
  for (int i = cuda::thread(); i < S::kBlockTokens * kChunks; i += S::kThreads) {
    const int chunk = i % kChunks, row = i / kChunks;
    const int64_t m = m0 + row, k = k0 + 16 * chunk;
    const bool valid = m < gemm.m && k < gemm.k;
    int8_t* to = &stage.tokens[chunk / 4][row][16 * token_chunk(row, chunk % 4)];
    cuda::cp_async16(to, valid ? gemm.a + m * gemm.a_stride + k : gemm.a, valid);
  }
}

// Where this warp works within the block's tile.
template <class S>
struct Place {
  int n, m, k;

  __device__ __forceinline__ Place() {
    const int warp = cuda::thread() / 32;
    n = warp % S::kWarpsN * S::kPanels;
    m = warp / S::kWarpsN % S::kWarpsM * S::kTokens;
    k = warp / S::kWarpsN / S::kWarpsM;
  }
};

template <class S>
__device__ __forceinline__ void multiply(const Stage<S>& stage, int32_t (&acc)[S::kPanels][2][S::kTokens / 8][4]) {
  const Place<S> place;
  const int lane = cuda::thread() % 32, row = lane % 8;
  uint32_t b[S::kTokens / 8][4];  // of 64 k: two words of each 32
#pragma unroll
  for (int j = 0; j < S::kTokens / 8; ++j) {
    const int token = place.m + 8 * j + row;
    cuda::load_matrix_x4(b[j], &stage.tokens[place.k][token][16 * token_chunk(token, lane / 8)]);
  }
#pragma unroll
  for (int step = 0; step < kDepth / 32; ++step)
#pragma unroll
    for (int panel = 0; panel < S::kPanels; ++panel) {
      uint32_t a[2][4];
      load_weights(a, stage.weights[place.n + panel][place.k * kDepth / 4 + 8 * step]);
#pragma unroll
      for (int j = 0; j < S::kTokens / 8; ++j) {
        const uint32_t words[2] = {b[j][2 * step], b[j][2 * step + 1]};
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) cuda::mma_s8(acc[panel][tile][j], a[tile], words);
      }
    }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) mma_kernel(const __grid_constant__ CudaGemm gemm) {
  auto& shared = *reinterpret_cast<Shared<S>*>(cuda::shared_memory());
  const int64_t panel0 = int64_t{cuda::block_x()} * S::kBlockPanels, m0 = int64_t{cuda::block_y()} * S::kBlockTokens;
  const int64_t steps = ceil_div(gemm.k, S::kBlockDepth);
  int32_t acc[S::kPanels][2][S::kTokens / 8][4] = {};
  for (int64_t step = 0; step < S::kStages - 1; ++step) {
    if (step < steps) load<S>(gemm, shared.stages[step], m0, panel0, step * S::kBlockDepth);
    cuda::cp_async_commit();
  }
  for (int64_t step = 0; step < steps; ++step) {
    cuda::cp_async_wait<S::kStages - 2>();  // this step's stage is here; later ones may still be on their way
    cuda::sync_block();                     // for all threads; and nobody reads the stage of the step before any more
    const int64_t next = step + S::kStages - 1;
    if (next < steps) load<S>(gemm, shared.stages[next % S::kStages], m0, panel0, next * S::kBlockDepth);
    cuda::cp_async_commit();
    multiply<S>(shared.stages[step % S::kStages], acc);
  }
  cuda::sync_block();  // the stages become sums; their copies are all waited for

  const Place<S> place;
#pragma unroll
  for (int panel = 0; panel < S::kPanels; ++panel)
#pragma unroll
    for (int j = 0; j < S::kTokens / 8; ++j)
      stage<S::kBlockChannels>(shared.sums[place.k], place.m + 8 * j, place.n + panel, acc[panel][0][j],
                               acc[panel][1][j]);
  cuda::sync_block();
  constexpr int kGroups = S::kBlockChannels / 4;
  for (int i = cuda::thread(); i < S::kBlockTokens * kGroups; i += S::kThreads) {
    const int token = i / kGroups, group = i % kGroups;
    Sums sums = shared.sums[0][Staging<S::kBlockChannels>::at(token, group)];
#pragma unroll
    for (int part = 1; part < S::kWarpsK; ++part)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums.of[c] += shared.sums[part][Staging<S::kBlockChannels>::at(token, group)].of[c];
    finish(gemm, m0 + token, panel0 * kPanel + 4 * group, sums);
  }
}

template <class S>
const char* launch(const CudaGemm& gemm, void* stream) {
  const cuda::Launch shape = {static_cast<int>(ceil_div(gemm.n, S::kBlockChannels)),
                              static_cast<int>(ceil_div(gemm.m, S::kBlockTokens)), S::kThreads,
                              static_cast<int>(sizeof(Shared<S>))};
  return cuda::launch(mma_kernel<S>, shape, stream, gemm);
}

}  // namespace

const char* launch_mma(const CudaGemm& gemm, void* stream) {
  // Few tokens: the weights' bandwidth counts, so narrow blocks, one panel each, whose warps share k.
  if (gemm.m <= 16) return launch<Shape<1, 1, 4, 1, 16, 4>>(gemm, stream);
  if (gemm.m <= 64) return launch<Shape<2, 2, 1, 1, 32, 4>>(gemm, stream);
  return launch<Shape<2, 2, 1, 2, 64, 4>>(gemm, stream);
}

}  // namespace pyprod::int8_gemm
