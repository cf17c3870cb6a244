#pragma once

#include "int8_attention/head.h"
#include "int8_gemm/layout.h"

// Attention on the GPU as plain functions: device pointers in, nothing of torch.

namespace pyprod::int8_attention {

inline constexpr int64_t kMostDepth = 128;  // of a head: a warp's sums of 16 queries are in registers

// Keys and values are quantized first, padded to whole tiles.
constexpr int64_t padded_keys(int64_t keys) { return int8_gemm::ceil_div(keys, 64) * 64; }
constexpr int64_t padded_depth(int64_t depth) { return depth <= 32 ? 32 : depth <= 64 ? 64 : 128; }

// [batch, heads, tokens, depth], dense along depth; strides in bytes.
struct CudaPart {
  const char* data;
  int64_t batch_stride, head_stride, token_stride;
};

struct CudaAttention {
  CudaPart q, k, v;
  Float type;
  int64_t batch, heads, kv_heads, queries, keys, depth;
  float scale;
  bool causal;
  Mask mask;  // of the first sample and head
  int64_t mask_batch_stride;
  void* out;  // [batch, queries, heads * depth] of `type`
  // Room for what is made first, of each of the batch * kv_heads key heads:
  int8_t* key_codes;    // [padded keys, padded depth], zero where there is none
  float* key_scales;    // [padded keys], zero where there is none
  int8_t* value_codes;  // [padded depth, padded keys], tokens in the order of prepare.cu
  float* value_scales;  // [padded depth]
  float* largest_key_scale;
};

// Quantizes the keys and values; launch() begins with it. Null, or CUDA's message.
const char* launch_prepare(const CudaAttention& attention, void* stream);

// All of it. Null, or CUDA's message.
const char* launch(const CudaAttention& attention, void* stream);

}  // namespace pyprod::int8_attention
