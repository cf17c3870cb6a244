// INT8 GEMM by Hopper's instructions (sm_90a): tensor copies into a ring of stages, a warp that issues them, and
// warpgroups that multiply by wgmma with the weights from registers.
//
// The weights are the instruction's 64 rows and the tokens its columns, however few: a token costs what it costs, with
// no step at 16. They come from registers because a packed panel's 16 bytes are a lane's share of two tiles
// (load_weights()), so one layout serves the CPU, mma.sync and wgmma.

#include "int8_gemm/finish.cuh"

namespace pyprod::int8_gemm {
namespace {

constexpr int kDepth = 128;  // k of a stage: the tokens' rows are the swizzle's 128 bytes

// A block's tile: kWarpgroups x 128 channels by kTokens tokens. kWhole: k is not split, and a block goes from tile to
// tile; else a cluster shares the k of one tile.
template <int kWarpgroups_, int kTokens_, int kStages_, bool kWhole_>
struct Shape {
  static constexpr int kWarpgroups = kWarpgroups_, kTokens = kTokens_, kStages = kStages_;
  static constexpr bool kWhole = kWhole_;
  static constexpr int kPanels = 4 * kWarpgroups, kChannels = kPanel * kPanels;
  static constexpr int kMultipliers = 128 * kWarpgroups;
  // Two warpgroups' sums need more registers than all threads can have alike: a whole warpgroup that copies, since
  // registers change hands by warpgroups, leaves them its own. One warpgroup has enough beside a warp.
  static constexpr bool kMovesRegisters = kWarpgroups > 1;
  static constexpr int kThreads = kMultipliers + (kMovesRegisters ? 128 : 32);
  static constexpr int kStagedTokens = kWhole ? 16 : kTokens;  // whose sums lie in shared memory at a time
  // Of a row of sums: of the block's tile, or of the one panel that each warp writes out by itself.
  static constexpr int kStagedChannels = kWhole ? kPanel : kChannels;
};

template <class S>
struct Stage {
  alignas(1024) uint8_t weights[S::kPanels][kDepth / 4][128];
  alignas(1024) int8_t tokens[S::kTokens][kDepth];
};

template <class S>
struct Shared {
  Stage<S> stages[S::kStages];
  Sums sums[S::kWhole ? S::kPanels : 1][S::kStagedTokens * S::kStagedChannels / 4];
  cuda::Barrier full[S::kStages], empty[S::kStages];
};

// Where a stage lies in the ring: used for the step-th time of all that this thread counts.
template <class S>
struct Ring {
  int stage = 0, turn = 0;

  __device__ __forceinline__ void next() {
    if (++stage == S::kStages) {
      stage = 0;
      turn ^= 1;
    }
  }
};

struct Tile {
  int m, panel;
};

// Tiles in an order that lets the blocks which run at once share what the L2 cache holds: 16 tiles of tokens down, then
// the next channels.
template <class S>
__device__ __forceinline__ Tile tile_at(const CudaGemm& gemm, int index) {
  constexpr int kDown = 16;
  const int across = static_cast<int>(ceil_div(gemm.n, S::kChannels));
  const int down = static_cast<int>(ceil_div(gemm.m, S::kTokens));
  const int first = index / (kDown * across) * kDown, left = down - first;
  const int height = left < kDown ? left : kDown, within = index % (kDown * across);
  return {(first + within % height) * S::kTokens, within / height * S::kPanels};
}

// The tiles and the k of this block.
template <class S>
struct Work {
  int first, stride, count;
  int begin, end;  // steps of kDepth

  __device__ __forceinline__ explicit Work(const CudaGemm& gemm) {
    const int steps = static_cast<int>(ceil_div(gemm.k, kDepth));
    const int tiles = static_cast<int>(ceil_div(gemm.n, S::kChannels) * ceil_div(gemm.m, S::kTokens));
    const int parts = S::kWhole ? 1 : cuda::cluster_size(), part = S::kWhole ? 0 : cuda::cluster_rank();
    first = cuda::block_x() / parts;
    stride = cuda::blocks_x() / parts;
    count = tiles;
    begin = steps * part / parts;
    end = steps * (part + 1) / parts;
  }
};

// One thread: fills stages as they become empty.
template <class S>
__device__ __forceinline__ void copy(const CudaGemm& gemm, const cuda::TensorMap& weights,
                                     const cuda::TensorMap& tokens, Shared<S>& shared) {
  const Work<S> work(gemm);
  Ring<S> ring;
  for (int index = work.first; index < work.count; index += work.stride) {
    const Tile tile = tile_at<S>(gemm, index);
#pragma unroll 1
    for (int step = work.begin; step < work.end; ++step, ring.next()) {
      Stage<S>& stage = shared.stages[ring.stage];
      cuda::Barrier* full = &shared.full[ring.stage];
      cuda::barrier_wait(&shared.empty[ring.stage], ring.turn ^ 1);  // at first all are: the phase before is over
      cuda::barrier_arrive_expect(full, static_cast<int>(sizeof stage.weights + sizeof stage.tokens));
      cuda::tensor_copy(stage.weights, weights, 0, 1 + step * (kDepth / 4), tile.panel, full);
      cuda::tensor_copy(stage.tokens, tokens, step * kDepth, tile.m, 0, full);
    }
  }
}

template <class S>
using Accumulators = int32_t[2][S::kTokens / 8][4];

// The products of the stage that the ring is at, which is let go.
template <class S>
__device__ __forceinline__ void multiply(Shared<S>& shared, Ring<S>& ring, Accumulators<S>& acc) {
  const Stage<S>& stage = shared.stages[ring.stage];
  cuda::barrier_wait(&shared.full[ring.stage], ring.turn);
  const uint8_t* weights = stage.weights[cuda::thread() / 32][0];
  const uint64_t tokens = cuda::tile_descriptor(stage.tokens);
  uint32_t a[kDepth / 32][2][4];
  load_weights(a[0], weights);
#pragma unroll
  for (int k = 0; k < kDepth / 32; ++k) {
    cuda::wgmma_fence();
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
      cuda::wgmma_s8<S::kTokens>(acc[tile], a[k][tile], cuda::advance_descriptor(tokens, 32 * k));
    cuda::wgmma_commit();
    if (k + 1 < kDepth / 32) load_weights(a[k + 1], weights + 8 * 128 * (k + 1));
  }
  cuda::wgmma_wait<0>();
  if (cuda::thread() % 32 == 0) cuda::barrier_arrive(&shared.empty[ring.stage]);
  ring.next();
}

template <class S>
__device__ __forceinline__ void multiply_tile(const Work<S>& work, Shared<S>& shared, Ring<S>& ring,
                                              Accumulators<S>& acc) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile)
#pragma unroll
    for (int j = 0; j < S::kTokens / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[tile][j][i] = 0;
#pragma unroll 1
  for (int step = work.begin; step < work.end; ++step) multiply<S>(shared, ring, acc);
}

// Writes out a whole tile: each warp its own panel, 16 tokens at a time. The loop is not unrolled, so that finish() is
// there once; a register has no index, so each turn picks its own.
template <class S>
__device__ __forceinline__ void write_panel(const CudaGemm& gemm, const Tile& tile, Sums* sums,
                                            const Accumulators<S>& acc) {
  const int panel = tile.panel + cuda::thread() / 32, lane = cuda::thread() % 32;
#pragma unroll 1
  for (int first = 0; first < S::kTokens; first += 16) {
#pragma unroll
    for (int j = 0; j < S::kTokens / 8; ++j)
      if (8 * j / 16 * 16 == first) stage<kPanel>(sums, 8 * j % 16, 0, acc[0][j], acc[1][j]);
    cuda::sync_warp();
#pragma unroll 1
    for (int i = lane; i < 16 * 8; i += 32)
      finish(gemm, tile.m + first + i / 8, panel * kPanel + 4 * (i % 8), sums[Staging<kPanel>::at(i / 8, i % 8)]);
    cuda::sync_warp();  // before the next tokens' sums
  }
}

template <class S>
__device__ __forceinline__ void sync_sharers() {
  if (cuda::cluster_size() > 1) {
    cuda::sync_cluster();
  } else {
    cuda::sync_block();
  }
}

// Writes out a tile whose k a cluster shares: each block adds up the sums of all for its part of the tokens and
// channels. Integers: the order does not matter, and a token's result does not depend on how many there are.
template <class S>
__device__ __forceinline__ void write_shared_tile(const CudaGemm& gemm, const Tile& tile, const Sums* sums) {
  constexpr int kGroups = S::kChannels / 4, kAll = S::kTokens * kGroups;
  const int parts = cuda::cluster_size(), part = cuda::cluster_rank();
  for (int i = kAll * part / parts + cuda::thread(); i < kAll * (part + 1) / parts; i += S::kThreads) {
    const int token = i / kGroups, group = i % kGroups, at = Staging<S::kChannels>::at(token, group);
    if (tile.m + token >= gemm.m) continue;
    Sums total = {};
    for (int block = 0; block < parts; ++block) {
      const Sums one = *cuda::in_block(sums + at, block);
#pragma unroll
      for (int c = 0; c < 4; ++c) total.of[c] += one.of[c];
    }
    finish(gemm, tile.m + token, tile.panel * kPanel + 4 * group, total);
  }
}

template <class S>
__device__ __forceinline__ void multiply_all(const CudaGemm& gemm, Shared<S>& shared) {
  const Work<S> work(gemm);
  const int warp = cuda::thread() / 32;
  Ring<S> ring;
  Accumulators<S> acc;
  for (int index = work.first; index < work.count; index += work.stride) {
    multiply_tile<S>(work, shared, ring, acc);
    if constexpr (S::kWhole) {
      write_panel<S>(gemm, tile_at<S>(gemm, index), shared.sums[warp], acc);
    } else {
#pragma unroll
      for (int j = 0; j < S::kTokens / 8; ++j) stage<S::kChannels>(shared.sums[0], 8 * j, warp, acc[0][j], acc[1][j]);
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    wgmma_kernel(const __grid_constant__ CudaGemm gemm, const __grid_constant__ cuda::TensorMap weights,
                 const __grid_constant__ cuda::TensorMap tokens) {
#if PYPROD_SM90A
  auto& shared = *reinterpret_cast<Shared<S>*>(cuda::shared_memory());
  if (cuda::thread() == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      cuda::barrier_init(&shared.full[i], 1);
      cuda::barrier_init(&shared.empty[i], S::kPanels);  // a lane of each multiplying warp
    }
    cuda::barrier_init_fence();
  }
  cuda::sync_block();
  if (cuda::thread() < S::kMultipliers) {
    if constexpr (S::kMovesRegisters) cuda::claim_registers<232>();
    multiply_all<S>(gemm, shared);
  } else {
    if constexpr (S::kMovesRegisters) cuda::release_registers<40>();
    if (cuda::thread() == S::kMultipliers) copy<S>(gemm, weights, tokens, shared);
  }
  if constexpr (!S::kWhole) {
    sync_sharers<S>();
    write_shared_tile<S>(gemm, tile_at<S>(gemm, Work<S>(gemm).first), shared.sums[0]);
    sync_sharers<S>();  // nobody leaves while another reads its sums
  }
#endif
}

// Blocks that share a tile's k: enough to fill the GPU, each with two steps at least.
template <class S>
int sharers(const CudaGemm& gemm, int64_t tiles, int processors) {
  int count = 1;
  while (count < 8 && 2 * count * tiles <= processors && 4 * count * kDepth <= gemm.k) count *= 2;
  return count;
}

template <class S>
const char* launch(const CudaGemm& gemm, void* stream, int processors) {
  const int64_t panels = ceil_div(gemm.n, kPanel), rows = 1 + ceil_div(gemm.k, 4), columns = padded_row(gemm.k);
  cuda::TensorMap weights, tokens;
  const char* error = cuda::make_tensor_map(&weights, {.data = gemm.packed,
                                                       .columns = kRowBytes,
                                                       .rows = rows,
                                                       .planes = panels,
                                                       .row_stride = kRowBytes,
                                                       .plane_stride = rows * kRowBytes,
                                                       .tile_rows = kDepth / 4,
                                                       .tile_planes = S::kPanels});
  if (error == nullptr)
    error = cuda::make_tensor_map(&tokens, {.data = gemm.a,
                                            .columns = columns,
                                            .rows = gemm.m,
                                            .planes = 1,
                                            .row_stride = gemm.a_stride,
                                            .plane_stride = gemm.m * gemm.a_stride,
                                            .tile_rows = S::kTokens,
                                            .tile_planes = 1});
  if (error != nullptr) return error;
  const int64_t tiles = ceil_div(gemm.n, S::kChannels) * ceil_div(gemm.m, S::kTokens);
  const int parts = S::kWhole ? 1 : sharers<S>(gemm, tiles, processors);
  const int64_t blocks = S::kWhole && tiles > processors ? processors : tiles * parts;
  const cuda::Launch shape = {static_cast<int>(blocks), 1, S::kThreads, static_cast<int>(sizeof(Shared<S>)), parts};
  return cuda::launch(wgmma_kernel<S>, shape, stream, gemm, weights, tokens);
}

}  // namespace

const char* launch_wgmma(const CudaGemm& gemm, void* stream, int processors) {
  if (gemm.m <= 8) return launch<Shape<1, 8, 8, false>>(gemm, stream, processors);
  if (gemm.m <= 32) return launch<Shape<1, 32, 8, false>>(gemm, stream, processors);
  if (gemm.m <= 128) return launch<Shape<1, 128, 4, false>>(gemm, stream, processors);
  return launch<Shape<2, 128, 4, true>>(gemm, stream, processors);
}

}  // namespace pyprod::int8_gemm
