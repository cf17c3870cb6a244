#pragma once

#include "common/cuda/primitives.cuh"
#include "common/quantize.h"

// One block works on one row: reads it eight values at a time, agrees on a number, and quantizes it. kWhole: every row
// is a number of whole eights, aligned to them in all matrices; there is no other code for those then.

namespace pyprod::cuda {

inline constexpr int kRowThreads = 256;  // of a block, at most
inline constexpr int kRowBlocks = 2;  // that a processor must have room for; unasked, ptxas spills to have room for 4

// Threads for a row of k values: two eights each, as long as there are enough.
inline int row_threads(int64_t k) {
  const int64_t warps = (k + 511) / 512;
  return static_cast<int>(warps < kRowThreads / 32 ? (warps > 1 ? 32 * warps : 32) : kRowThreads);
}

inline constexpr int kRowShared = 4 * kRowThreads / 32;  // bytes: a word for each warp

// Joins the values of a warp's lanes, in every lane; the order is the same each time.
template <class T, class Join>
__device__ __forceinline__ T over_warp(T value, const Join& join) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = join(value, shuffle_xor(value, lanes));
  return value;
}

// The same of all threads of the block.
template <class T, class Join>
__device__ __forceinline__ T over_block(T value, const Join& join) {
  value = over_warp(value, join);
  const int warps = threads() / 32;
  if (warps == 1) return value;
  T* of_warps = reinterpret_cast<T*>(shared_memory());
  sync_block();  // what an earlier call wrote is read
  if (thread() % 32 == 0) of_warps[thread() / 32] = value;
  sync_block();
  value = of_warps[0];
  for (int warp = 1; warp < warps; ++warp) value = join(value, of_warps[warp]);
  return value;
}

struct Larger {
  __device__ __forceinline__ int32_t operator()(int32_t a, int32_t b) const { return a > b ? a : b; }
};

__device__ __forceinline__ int32_t warp_max(int32_t value) { return over_warp(value, Larger()); }
__device__ __forceinline__ int32_t block_max(int32_t value) { return over_block(value, Larger()); }

__device__ __forceinline__ float block_sum(float value) {
  return over_block(value, [](float a, float b) { return a + b; });
}

__device__ __forceinline__ float block_most(float value) {
  return over_block(value, [](float a, float b) { return a > b ? a : b; });
}

struct Eight {
  float of[8];
};

template <class T>
struct alignas(8 * sizeof(T) < 16 ? 8 * sizeof(T) : 16) Packet {
  T of[8];
};

// Values of a row in global memory.
template <class T, bool kWhole>
struct RowOf {
  const T* values;
  int64_t k;

  __device__ __forceinline__ Eight eight(int64_t i) const {
    Packet<T> packet = {};
    if constexpr (kWhole) {
      packet = *reinterpret_cast<const Packet<T>*>(values + 8 * i);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (8 * i + j < k) packet.of[j] = values[8 * i + j];
    }
    Eight eight;
#pragma unroll
    for (int j = 0; j < 8; ++j) eight.of[j] = to_float(packet.of[j]);
    return eight;
  }
};

// Eight `i` of a row times those of a vector, if there is one.
template <bool kWhole>
__device__ __forceinline__ Eight multiplied(const RowOf<float, kWhole>& multiplier, int64_t i, Eight x) {
  if (multiplier.values == nullptr) return x;
  const Eight by = multiplier.eight(i);
#pragma unroll
  for (int j = 0; j < 8; ++j) x.of[j] = x.of[j] * by.of[j];
  return x;
}

__device__ __forceinline__ int32_t top_of(const Eight& eight, int32_t top) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int32_t bits = magnitude_bits(eight.of[j]);
    top = bits > top ? bits : top;
  }
  return top;
}

// Where a quantized row goes: q[0, stride), zero from k on.
template <bool kWhole>
struct QuantizedRow {
  int8_t* q;
  int64_t k, stride;

  __device__ __forceinline__ void write(int64_t i, const Eight& eight, float inverse, int32_t zero_point,
                                        bool finite) const {
    Packet<int8_t> packet;
#pragma unroll
    for (int j = 0; j < 8; ++j)
      packet.of[j] = finite && (kWhole || 8 * i + j < k)
                         ? static_cast<int8_t>(round_scaled(eight.of[j], inverse) + zero_point)
                         : int8_t{0};
    if constexpr (kWhole) {
      *reinterpret_cast<Packet<int8_t>*>(q + 8 * i) = packet;
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (8 * i + j < stride) q[8 * i + j] = packet.of[j];
    }
  }
};

// A row's eights. Of whole ones the first four of each thread stay in registers, so a row of 8192 values is read once;
// all others are asked for again each time.
template <bool kWhole, class Values>
class HeldRow {
 public:
  // Eight i of the row is values(i).
  __device__ __forceinline__ HeldRow(const Values& values, int64_t eights) : values_(values), eights_(eights) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h)
      if (index(h) < eights_) held_[h] = values_(index(h));
  }

  // Calls visit(i, eight) for each of this thread's.
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
#pragma unroll
    for (int h = 0; h < kHeld; ++h)
      if (index(h) < eights_) visit(index(h), held_[h]);
#pragma unroll 1
    for (int64_t i = index(kHeld); i < eights_; i += threads()) visit(i, values_(i));
  }

 private:
  static constexpr int kHeld = kWhole ? 4 : 0;

  __device__ __forceinline__ static int64_t index(int h) { return thread() + int64_t{h} * threads(); }

  const Values& values_;
  int64_t eights_;
  Eight held_[kWhole ? kHeld : 1];
};

// asymmetric_code() of each(visit) of a row, whose largest magnitude_bits() is `top`.
template <class Each>
__device__ __forceinline__ RowCode asymmetric_code_of(const Each& each, int32_t top) {
  float low = 0, high = 0;
  each([&](int64_t, const Eight& eight) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      low = eight.of[j] < low ? eight.of[j] : low;
      high = eight.of[j] > high ? eight.of[j] : high;
    }
  });
  low = -block_most(-low);
  return asymmetric_code(low, block_most(high), top);
}

// Quantizes each(visit) of a row as common/quantize.h says.
template <bool kAsymmetric = false, bool kWhole, class Each>
__device__ __forceinline__ RowCode quantize_each(const Each& each, const QuantizedRow<kWhole>& to) {
  int32_t top = 0;
  each([&](int64_t, const Eight& eight) { top = top_of(eight, top); });
  top = block_max(top);
  RowCode code = {row_scale(top)};
  if constexpr (kAsymmetric) code = asymmetric_code_of(each, top);
  const float inverse = 1.0f / code.scale;
  const bool finite = is_finite_magnitude(top);
  each([&](int64_t i, const Eight& eight) { to.write(i, eight, inverse, code.zero_point, finite); });
  return code;
}

// Quantizes the row whose i-th eight is values(i); its scale goes to `scale`, and its zero point to `zero_point`.
template <bool kAsymmetric = false, bool kWhole, class Values>
__device__ __forceinline__ void quantize_row(const Values& values, const QuantizedRow<kWhole>& to, float* scale,
                                             int32_t* zero_point = nullptr) {
  const HeldRow<kWhole, Values> row(values, (to.stride + 7) / 8);
  const RowCode code = quantize_each<kAsymmetric>([&row](const auto& visit) { row.each(visit); }, to);
  if (thread() != 0) return;
  *scale = code.scale;
  if constexpr (kAsymmetric) *zero_point = code.zero_point;
}

// Writes an eight of a row of k values.
template <bool kWhole, class T>
__device__ __forceinline__ void write_eight(T* to, int64_t i, int64_t k, const Eight& eight) {
  Packet<T> packet;
#pragma unroll
  for (int j = 0; j < 8; ++j) from_float(eight.of[j], packet.of[j]);
  if constexpr (kWhole) {
    *reinterpret_cast<Packet<T>*>(to + 8 * i) = packet;
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (8 * i + j < k) to[8 * i + j] = packet.of[j];
  }
}

// Whether rows `stride` elements apart from `data` on are aligned to packets of eight.
template <class T>
bool rows_aligned(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % alignof(Packet<T>) == 0 &&
         stride * static_cast<int64_t>(sizeof(T)) % static_cast<int64_t>(alignof(Packet<T>)) == 0;
}

}  // namespace pyprod::cuda
