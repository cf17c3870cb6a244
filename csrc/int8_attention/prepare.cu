// Keys and values of a head quantized on the GPU, as attention.cu reads them; the arithmetic of pack.h.

#include "common/cuda/row.cuh"
#include "int8_attention/part.cuh"

namespace pyprod::int8_attention {
namespace {

// Where in its 32 tokens a token's value is stored: tokens 8j + 2t + e at 16 (j / 2) + 4t + 2 (j % 2) + e.
__device__ __forceinline__ int token_at(int place) {
  const int half = place / 16, t = place % 16 / 4, e = place % 4;
  return 8 * (2 * half + e / 2) + 2 * t + e % 2;
}

// The mean key, the keys less it, quantized per token; the values quantized per channel. A block takes a key head.
template <class T>
__global__ void __launch_bounds__(cuda::kRowThreads) prepare_kernel(const __grid_constant__ CudaAttention a) {
  float* mean = reinterpret_cast<float*>(cuda::shared_memory() + cuda::kRowShared);
  float* inverse = mean + a.depth;
  const int64_t unit = cuda::block_x(), batch = unit / a.kv_heads, head = unit % a.kv_heads;
  const int64_t tokens = padded_keys(a.keys), depth = padded_depth(a.depth);
  float* const key_scales = a.key_scales + unit * tokens;
  float* const value_scales = a.value_scales + unit * depth;
  for (int64_t d = cuda::thread(); d < a.depth; d += cuda::threads()) {
    float sum = 0;
    int32_t top = 0;
    for (int64_t token = 0; token < a.keys; ++token) {
      sum += to_float(row_of<T>(a.k, batch, head, token)[d]);
      const int32_t bits = magnitude_bits(to_float(row_of<T>(a.v, batch, head, token)[d]));
      top = bits > top ? bits : top;
    }
    mean[d] = sum * (1.0f / static_cast<float>(a.keys));
    value_scales[d] = row_scale(top);
    inverse[d] = is_finite_magnitude(top) ? 1.0f / value_scales[d] : 0.0f;
  }
  cuda::sync_block();

  const int lane = cuda::thread() % 32, warps = cuda::threads() / 32;
  int32_t largest = 0;
  for (int64_t token = cuda::thread() / 32; token < tokens; token += warps) {
    int8_t* codes = a.key_codes + (unit * tokens + token) * depth;
    const bool there = token < a.keys;
    const T* key = row_of<T>(a.k, batch, head, there ? token : 0);
    int32_t top = 0;
    for (int64_t d = lane; d < a.depth; d += 32) {
      const int32_t bits = magnitude_bits(to_float(key[d]) - mean[d]);
      top = bits > top ? bits : top;
    }
    top = cuda::warp_max(top);
    const float scale = there ? row_scale(top) : 0.0f, factor = 1.0f / scale;
    for (int64_t d = lane; d < depth; d += 32)
      codes[d] =
          there && d < a.depth ? static_cast<int8_t>(round_scaled(to_float(key[d]) - mean[d], factor)) : int8_t{0};
    if (lane == 0) key_scales[token] = scale;
    largest = magnitude_bits(scale) > largest ? magnitude_bits(scale) : largest;
  }
  largest = cuda::block_max(largest);
  if (cuda::thread() == 0) a.largest_key_scale[unit] = std::bit_cast<float>(largest);

  for (int64_t i = cuda::thread(); i < depth * tokens; i += cuda::threads()) {
    const int64_t d = i % depth, place = i / depth, token = place / 32 * 32 + token_at(static_cast<int>(place % 32));
    int8_t code = 0;
    if (d < a.depth && token < a.keys)
      code = static_cast<int8_t>(round_scaled(to_float(row_of<T>(a.v, batch, head, token)[d]), inverse[d]));
    a.value_codes[(unit * depth + d) * tokens + place] = code;
  }
}

template <class T>
const char* launch_as(const CudaAttention& a, void* stream) {
  const int units = static_cast<int>(a.batch * a.kv_heads);
  const int shared = cuda::kRowShared + 2 * static_cast<int>(a.depth) * 4;  // and a mean and a factor per channel
  return cuda::launch(prepare_kernel<T>, {units, 1, cuda::kRowThreads, shared}, stream, a);
}

}  // namespace

const char* launch_prepare(const CudaAttention& a, void* stream) {
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
