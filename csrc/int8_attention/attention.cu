// int8_attention on the GPU, sm_80 and newer: the arithmetic of attend.h, so the CPU's bits.
//
// One block of 64 queries sees all keys twice: for the rows' maxima, then for their weights. A weight is an integer of
// 15 bits in two signed bytes, each of which mma.sync multiplies with the values. The sums of a product with the keys
// lie in the lanes as rows g, g + 8 and columns 2t, 2t + 1 of each eight keys; the next product wants its left operand
// as four neighboring columns 4t ... 4t + 3 of each row. So the values' tokens are stored in such an order that the
// lanes' weights are in place as they are: prepare.cu.

#include <limits>

#include "common/cuda/row.cuh"
#include "int8_attention/loops.h"
#include "int8_attention/part.cuh"

namespace pyprod::int8_attention {
namespace {

constexpr int kWarps = 4, kQueries = 16 * kWarps, kKeys = 64;  // of a block, and of a tile

// Of kRow bytes each: so many rows fill the banks that eight rows' chunks at one place would meet; exchanged, they
// don't.
template <int kRow>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
  return chunk ^ (row * kRow / 128 % (kRow / 16));
}

template <int kDepth>
struct Tiles {
  alignas(128) int8_t queries[kQueries][kDepth];
  float scales[kQueries];
  alignas(128) int8_t keys[2][kKeys][kDepth];
  alignas(128) int8_t values[2][kDepth][kKeys];
};

// Starts the copies of rows of kRow bytes, `stride` apart.
template <int kRow, int kRows>
__device__ __forceinline__ void copy_rows(int8_t (&to)[kRows][kRow], const int8_t* from, int64_t stride) {
  constexpr int kChunks = kRow / 16;
  for (int i = cuda::thread(); i < kRows * kChunks; i += 32 * kWarps) {
    const int row = i / kChunks, chunk = i % kChunks;
    cuda::cp_async16(&to[row][16 * chunk_at<kRow>(row, chunk)], from + row * stride + 16 * chunk, true);
  }
}

// Rows 8 group ... + 15 of a tile as right operands of mma_s8(), 32 bytes from chunk on: two words of the first eight
// rows and two of the next.
template <int kRow, int kRows>
__device__ __forceinline__ void load_rows(uint32_t (&b)[2][2], const int8_t (&tile)[kRows][kRow], int group,
                                          int chunk) {
  const int lane = cuda::thread() % 32, matrix = lane / 8, row = 8 * (group + matrix / 2) + lane % 8;
  uint32_t words[4];
  cuda::load_matrix_x4(words, &tile[row][16 * chunk_at<kRow>(row, chunk + matrix % 2)]);
#pragma unroll
  for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = words[i];
}

// A lane's two rows of 16 queries: g and g + 8.
struct Row {
  int token;
  bool there;
  int seen;       // keys
  float scale;    // of its scores, kScoreUnit included
  bool finite;    // so far
  float top;      // the largest score
  int32_t total;  // of its weights
};

// What is added to the score of a key, -infinity where it is not seen.
__device__ __forceinline__ float bias_of(const CudaAttention& a, const char* mask, const Row& row, int key) {
  if (key >= row.seen) return -kInfinity;
  if (a.mask.kind == MaskKind::none) return 0.0f;
  const char* at = mask + (row.token * a.mask.query_stride + key * a.mask.key_stride) * a.mask.item_size;
  if (a.mask.kind == MaskKind::boolean) return *at != 0 ? 0.0f : -kInfinity;
  if (a.mask.type == Float::f32) return *reinterpret_cast<const float*>(at) * kScoreUnit;
  if (a.mask.type == Float::bf16) return to_float(*reinterpret_cast<const BFloat16*>(at)) * kScoreUnit;
  return to_float(*reinterpret_cast<const Float16*>(at)) * kScoreUnit;
}

template <class T, int kDepth>
class Attend {
 public:
  __device__ __forceinline__ explicit Attend(const CudaAttention& attention)
      : a_(attention), tiles_(*reinterpret_cast<Tiles<kDepth>*>(cuda::shared_memory())) {
    const int64_t tiles = int8_gemm::ceil_div(a_.queries, kQueries), unit = cuda::block_x() / tiles;
    batch_ = unit / a_.heads;
    head_ = unit % a_.heads;
    first_ = cuda::block_x() % tiles * kQueries;
    const int64_t kv = batch_ * a_.kv_heads + head_ / (a_.heads / a_.kv_heads);
    tokens_ = padded_keys(a_.keys);
    keys_ = a_.key_codes + kv * tokens_ * kDepth;
    key_scales_ = a_.key_scales + kv * tokens_;
    values_ = a_.value_codes + kv * kDepth * tokens_;
    value_scales_ = a_.value_scales + kv * kDepth;
    score_top_ = a_.largest_key_scale[kv] * (127.0f * 127.0f * static_cast<float>(a_.depth));
    mask_ = a_.mask.data + (batch_ * a_.mask_batch_stride + head_ * a_.mask.head_stride) * a_.mask.item_size;
  }

  __device__ __forceinline__ void run() {
    quantize_queries();
    const int64_t last = first_ + kQueries < a_.queries ? first_ + kQueries : a_.queries;
    const int64_t seen = a_.causal && last < a_.keys ? last : a_.keys;
    const int steps = static_cast<int>(int8_gemm::ceil_div(seen, kKeys));
    each_tile<false>(steps, [this](int step, int slot) { raise_tops(step, slot); });
    finish_tops();
    each_tile<true>(steps, [this](int step, int slot) { add_values(step, slot); });
    write();
  }

 private:
  using Scores = float[4][4];  // of 32 keys, eight at a time: all 64 would not leave room for a deep head's sums

  const CudaAttention& a_;
  Tiles<kDepth>& tiles_;
  int64_t batch_, head_, first_, tokens_;
  const int8_t *keys_, *values_;
  const float *key_scales_, *value_scales_;
  float score_top_;
  const char* mask_;
  Row rows_[2];
  uint32_t queries_[kDepth / 32][4];
  int32_t high_[kDepth / 8][4] = {}, low_[kDepth / 8][4] = {};

  // Each warp its own 16 queries, into the left operand of mma_s8().
  __device__ __forceinline__ void quantize_queries() {
    const int warp = cuda::thread() / 32, lane = cuda::thread() % 32, g = lane / 4, t = lane % 4;
    for (int r = 0; r < 16; ++r) {
      const int64_t token = first_ + 16 * warp + r;
      const bool there = token < a_.queries;
      const T* query = row_of<T>(a_.q, batch_, head_, there ? token : 0);
      int32_t top = 0;
      for (int d = lane; d < a_.depth; d += 32) {
        const int32_t bits = magnitude_bits(to_float(query[d]));
        top = bits > top ? bits : top;
      }
      top = cuda::warp_max(top);
      const float scale = row_scale(top), inverse = 1.0f / scale;
      for (int d = lane; d < kDepth; d += 32)
        tiles_.queries[16 * warp + r][d] =
            d < a_.depth ? static_cast<int8_t>(round_scaled(to_float(query[d]), inverse)) : int8_t{0};
      if (lane == 0) tiles_.scales[16 * warp + r] = scale;
    }
    cuda::sync_warp();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Row& row = rows_[r];
      const int at = 16 * warp + g + 8 * r, keys = static_cast<int>(a_.keys);
      row.there = first_ + at < a_.queries;
      row.token = row.there ? static_cast<int>(first_) + at : 0;
      row.seen = a_.causal && row.token + 1 < keys ? row.token + 1 : keys;
      row.scale = tiles_.scales[at] * (a_.scale * kScoreUnit);
      const float bound = row.scale * score_top_;
      row.finite = (bound < 0 ? -bound : bound) < kInfinity;
      row.top = -kInfinity;
      row.total = 0;
    }
#pragma unroll
    for (int s = 0; s < kDepth / 32; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        queries_[s][i] =
            *reinterpret_cast<const uint32_t*>(&tiles_.queries[16 * warp + g + i % 2 * 8][32 * s + 4 * t + i / 2 * 16]);
  }

  // visit(step, slot) of every tile of keys, the next one on its way.
  template <bool kValues, class Visit>
  __device__ __forceinline__ void each_tile(int steps, const Visit& visit) {
    if (steps > 0) copy<kValues>(0);
    for (int step = 0; step < steps; ++step) {
      if (step + 1 < steps) copy<kValues>(step + 1);
      cuda::cp_async_commit();
      cuda::cp_async_wait<1>();
      cuda::sync_block();
      visit(step, step % 2);
      cuda::sync_block();  // the next copy goes where this tile is
    }
    cuda::cp_async_wait<0>();
  }

  template <bool kValues>
  __device__ __forceinline__ void copy(int step) {
    const int64_t first = int64_t{step} * kKeys;
    copy_rows(tiles_.keys[step % 2], keys_ + first * kDepth, kDepth);
    if constexpr (kValues) copy_rows(tiles_.values[step % 2], values_ + first, tokens_);
    if (step == 0) cuda::cp_async_commit();
  }

  // The scores of keys 32 half ... + 31 of a tile.
  template <bool kChecks>
  __device__ __forceinline__ void score(int step, int slot, int half, Scores& scores) {
    const int t = cuda::thread() % 4;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      int32_t sums[2][4] = {};
#pragma unroll
      for (int s = 0; s < kDepth / 32; ++s) {
        uint32_t b[2][2];
        load_rows(b, tiles_.keys[slot], 4 * half + 2 * pair, 2 * s);
#pragma unroll
        for (int n = 0; n < 2; ++n) cuda::mma_s8(sums[n], queries_[s], b[n]);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = step * kKeys + 32 * half + 16 * pair + 8 * n + 2 * t + i % 2;
          Row& row = rows_[i / 2];
          const float bias = bias_of(a_, mask_, row, key);
          if (kChecks && !(bias < kInfinity)) row.finite = false;
          scores[2 * pair + n][i] = static_cast<float>(sums[n][i]) * (row.scale * key_scales_[key]) + bias;
        }
    }
  }

  __device__ __forceinline__ void raise_tops(int step, int slot) {
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      Scores scores;
      score<true>(step, slot, half, scores);
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& top = rows_[i / 2].top;
          top = scores[j][i] > top ? scores[j][i] : top;
        }
    }
  }

  // A row's four lanes agree.
  __device__ __forceinline__ void finish_tops() {
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int lanes = 1; lanes <= 2; lanes *= 2) {
        const float top = cuda::shuffle_xor(rows_[r].top, lanes);
        rows_[r].top = top > rows_[r].top ? top : rows_[r].top;
        rows_[r].finite &= cuda::shuffle_xor(static_cast<int32_t>(rows_[r].finite), lanes) != 0;
      }
  }

  __device__ __forceinline__ void add_values(int step, int slot) {
#pragma unroll 1  // both at once would not fit into registers
    for (int half = 0; half < 2; ++half) {
      Scores scores;
      score<false>(step, slot, half, scores);
      uint32_t high[4] = {}, low[4] = {};  // left operands
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          Row& row = rows_[i / 2];
          const bool weighed = row.finite && row.top > -kInfinity;
          const int32_t weight = weighed ? weight_of(row.top - scores[j][i]) : 0;
          row.total += weight;
          const int word = j / 2 * 2 + i / 2, shift = 8 * (j % 2 * 2 + i % 2);
          high[word] |= (static_cast<uint32_t>((weight + 128) >> 8) & 255u) << shift;
          low[word] |= (static_cast<uint32_t>(weight) & 255u) << shift;
        }
#pragma unroll
      for (int d = 0; d < kDepth / 8; d += 2) {
        uint32_t b[2][2];
        load_rows(b, tiles_.values[slot], d, 2 * half);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          cuda::mma_s8(high_[d + n], high, b[n]);
          cuda::mma_s8(low_[d + n], low, b[n]);
        }
      }
    }
  }

  __device__ __forceinline__ void write() {
    const int t = cuda::thread() % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      Row& row = rows_[r];
#pragma unroll
      for (int lanes = 1; lanes <= 2; lanes *= 2) row.total += cuda::shuffle_xor(row.total, lanes);
      if (!row.there) continue;
      const float nan = std::numeric_limits<float>::quiet_NaN();
      const float inverse = !row.finite ? nan : row.total > 0 ? 1.0f / static_cast<float>(row.total) : 0.0f;
      T* out = static_cast<T*>(a_.out) + (batch_ * a_.queries + row.token) * a_.heads * a_.depth + head_ * a_.depth;
#pragma unroll
      for (int d = 0; d < kDepth / 8; ++d)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int channel = 8 * d + 2 * t + e;
          if (channel >= a_.depth) continue;
          const float sum = 256.0f * static_cast<float>(high_[d][2 * r + e]) + static_cast<float>(low_[d][2 * r + e]);
          from_float(sum * (inverse * value_scales_[channel]), out[channel]);
        }
    }
  }
};

// That a processor must have room for; unasked, ptxas spills for more of them.
constexpr int blocks_at_once(int depth) { return depth > 64 ? 2 : 3; }

template <class T, int kDepth>
__global__ void __launch_bounds__(32 * kWarps, blocks_at_once(kDepth))
    attend_kernel(const __grid_constant__ CudaAttention attention) {
  Attend<T, kDepth>(attention).run();
}

template <class T, int kDepth>
const char* launch_as(const CudaAttention& a, void* stream) {
  if (const char* error = launch_prepare(a, stream)) return error;
  const int64_t blocks = a.batch * a.heads * int8_gemm::ceil_div(a.queries, kQueries);
  return cuda::launch(attend_kernel<T, kDepth>,
                      {static_cast<int>(blocks), 1, 32 * kWarps, static_cast<int>(sizeof(Tiles<kDepth>))}, stream, a);
}

template <class T>
const char* launch_as(const CudaAttention& a, void* stream) {
  switch (padded_depth(a.depth)) {
    case 32:
      return launch_as<T, 32>(a, stream);
    case 64:
      return launch_as<T, 64>(a, stream);
    default:
      return launch_as<T, 128>(a, stream);
  }
}

}  // namespace

const char* launch(const CudaAttention& a, void* stream) {
  switch (a.type) {
    case Float::f32:
      return launch_as<float>(a, stream);
    case Float::bf16:
      return launch_as<BFloat16>(a, stream);
    default:
      return launch_as<Float16>(a, stream);
  }
}

}  // namespace pyprod::int8_attention
