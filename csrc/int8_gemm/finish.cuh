#pragma once

#include "common/cuda/primitives.cuh"
#include "common/quantize.h"
#include "int8_gemm/cuda.h"

// From a warp's accumulators to the output, by way of shared memory: the warp's lanes hold the sums as the matrix
// instructions leave them, and write them out as whole rows. A loop over shared memory also has the epilogue's code
// once, where registers, which have no index, would need it unrolled for each of them.
//
// Weights are the instruction's rows and tokens its columns. Row g of a pair of 16-row tiles is an output channel of
// the 32 of a panel: chunk(g) names the four channels 4 chunk(g) ... + 3 that lane (g, t) = (lane / 4, lane % 4) holds,
// as rows g and g + 8 of the first tile and of the second. One 16-byte read of a panel's row is a lane's weights of
// both.

namespace pyprod::int8_gemm {

// 0, 4, 1, 5, 2, 6, 3, 7: eight lanes (two g, four t) that read chunk(g) of the rows t of a panel, where a row's chunks
// are exchanged as in tensor_copy(), touch all 32 banks once.
__device__ __forceinline__ int chunk(int g) { return g / 2 + g % 2 * 4; }

struct alignas(16) Words {
  uint32_t word[4];
};

// A lane's part of 32 k of a panel, for both tiles. `rows`: the panel's rows of four k in shared memory, 128 bytes
// each, chunks exchanged; the first is a multiple of 8.
__device__ __forceinline__ void load_weights(uint32_t (&a)[2][4], const uint8_t* rows) {
  const int lane = cuda::thread() % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // k = 4t and 4t + 16
    const int row = t + 4 * half;
    const Words words = *reinterpret_cast<const Words*>(rows + 128 * row + 16 * (chunk(g) ^ row));
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
      for (int part = 0; part < 2; ++part) a[tile][2 * half + part] = words.word[2 * tile + part];
  }
}

struct alignas(16) Sums {
  int32_t of[4];  // four neighboring channels
};

// int32 [tokens, kChannels] in shared memory, a row's groups of four channels exchanged by its token, so that the eight
// lanes of a 16-byte access touch all banks once when they write (four tokens, two groups) and when they read.
template <int kChannels>
struct Staging {
  static constexpr int kGroups = kChannels / 4;

  __device__ __forceinline__ static int at(int token, int group) { return token * kGroups + (group ^ (token / 2 % 4)); }
};

// Writes a lane's sums of tokens 8j ... 8j + 7, which both tiles hold, to `staging`; `panel` of kChannels / 32, and
// `token` the first of the eight.
template <int kChannels>
__device__ __forceinline__ void stage(Sums* staging, int token, int panel, const int32_t (&first)[4],
                                      const int32_t (&second)[4]) {
  const int lane = cuda::thread() % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int e = 0; e < 2; ++e)
    staging[Staging<kChannels>::at(token + 2 * t + e, 8 * panel + chunk(g))] = {
        {first[e], first[2 + e], second[e], second[2 + e]}};
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

// Up to four neighboring values of a row: one access where all are inside and aligned.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T of[4];
};

template <class T>
__device__ __forceinline__ Four<T> load_four(const void* from, int64_t at, int count, bool whole) {
  const T* values = static_cast<const T*>(from) + at;
  if (whole) return *reinterpret_cast<const Four<T>*>(values);
  Four<T> four = {};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) four.of[i] = values[i];
  return four;
}

template <class T>
__device__ __forceinline__ void store_four(void* to, int64_t at, int count, bool whole, const Four<T>& four) {
  T* values = static_cast<T*>(to) + at;
  if (whole) {
    *reinterpret_cast<Four<T>*>(values) = four;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) values[i] = four.of[i];
}

// y + residual, of the type that both have.
template <class Value>
__device__ __forceinline__ void add_residual(const CudaGemm& gemm, int64_t at, int count, float (&y)[4]) {
  if (gemm.epilogue.residual == nullptr) return;
  const auto residual = load_four<Value>(gemm.epilogue.residual, at, count, gemm.whole_fours);
#pragma unroll
  for (int i = 0; i < 4; ++i) y[i] += to_float(residual.of[i]);
}

template <class Out>
__device__ __forceinline__ void store_floats(const CudaGemm& gemm, int64_t at, int count, float (&y)[4]) {
  add_residual<Out>(gemm, at, count, y);
  Four<Out> out;
#pragma unroll
  for (int i = 0; i < 4; ++i) from_float(y[i], out.of[i]);
  store_four<Out>(gemm.epilogue.out, at, count, gemm.whole_fours, out);
}

// Saturates before it rounds; a NaN gives the least integer (rows.h does the same).
template <class Out, int kLeast>
__device__ __forceinline__ void store_integers(const CudaGemm& gemm, int64_t at, int count, float (&y)[4]) {
  const Epilogue& e = gemm.epilogue;
  add_residual<float>(gemm, at, count, y);
  const float low = static_cast<float>(kLeast - e.out_zero_point), high = low + 255.0f;
  Four<Out> out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float value = y[i] * e.out_inverse_scale;
    value = value > low ? value : low;
    value = value < high ? value : high;
    out.of[i] = static_cast<Out>(round_scaled(value, 1.0f) + e.out_zero_point);
  }
  store_four<Out>(e.out, at, count, gemm.whole_fours, out);
}

// The epilogue of out[m, n ... n + 3].
__device__ __forceinline__ void finish(const CudaGemm& gemm, int64_t m, int64_t n, const Sums& sums) {
  if (m >= gemm.m || n >= gemm.n) return;
  const Epilogue& e = gemm.epilogue;
  const int64_t at = m * e.out_stride + n;
  const int count = gemm.n - n < 4 ? static_cast<int>(gemm.n - n) : 4;
  if (e.store == Store::sums) {
    store_four<int32_t>(e.out, at, count, gemm.whole_fours, {{sums.of[0], sums.of[1], sums.of[2], sums.of[3]}});
    return;
  }
  Sums offset = {};  // zero point * sum_k w; the panel's first row holds -128 * sum_k w
  const int32_t zero_point = e.row_zero_point != nullptr ? e.row_zero_point[m] : e.zero_point;
  if (zero_point != 0) {
    offset = *reinterpret_cast<const Sums*>(gemm.packed + n / kPanel * panel_bytes(gemm.k) + 4 * (n % kPanel));
#pragma unroll
    for (int i = 0; i < 4; ++i) offset.of[i] = offset.of[i] / -128 * zero_point;
  }
  const float row_scale = e.row_scale != nullptr ? e.row_scale[m] : e.scale;
  const auto col_scale = load_four<float>(e.col_scale, n, count, gemm.whole_fours);
  Four<float> bias = {};
  if (e.bias != nullptr) bias = load_four<float>(e.bias, n, count, gemm.whole_fours);
  float y[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    y[i] = activate(e.activation,
                    static_cast<float>(sums.of[i] - offset.of[i]) * (row_scale * col_scale.of[i]) + bias.of[i]);
  if (e.store == Store::int8) return store_integers<int8_t, -128>(gemm, at, count, y);
  if (e.store == Store::uint8) return store_integers<uint8_t, 0>(gemm, at, count, y);
  switch (e.type) {
    case Float::f32:
      return store_floats<float>(gemm, at, count, y);
    case Float::bf16:
      return store_floats<BFloat16>(gemm, at, count, y);
    default:
      return store_floats<Float16>(gemm, at, count, y);
  }
}

}  // namespace pyprod::int8_gemm
