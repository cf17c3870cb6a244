#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/quantize.h"

// Copies of short runs of bytes, and the conversions between floats and int8 of a static scale and zero point.

namespace pyprod::int8_conv2d {

// Plain loops that the compiler vectorizes for each instruction set; the loader picks one. Float operations are not
// contracted, so all of them give the same bits.
#if defined(__x86_64__)
#define PYPROD_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PYPROD_CLONES
#endif

template <class Block>
inline void copy_block(int8_t* to, const int8_t* from) {
  Block block;
  std::memcpy(&block, from, sizeof block);
  std::memcpy(to, &block, sizeof block);
}

struct Bytes16 {
  uint64_t low, high;
};

// Exactly n bytes. The last block overlaps its predecessor, so that no count needs a call of memcpy (5 ns: a patch has
// up to a hundred runs, mostly of 9 to 200 bytes).
inline void copy_run(int8_t* to, const int8_t* from, int64_t n) {
  if (n >= 16) {
    for (int64_t i = 0; i + 16 < n; i += 16) copy_block<Bytes16>(to + i, from + i);
    copy_block<Bytes16>(to + n - 16, from + n - 16);
  } else if (n >= 8) {
    copy_block<uint64_t>(to, from);
    copy_block<uint64_t>(to + n - 8, from + n - 8);
  } else if (n >= 4) {
    copy_block<uint32_t>(to, from);
    copy_block<uint32_t>(to + n - 4, from + n - 4);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  }
}

// An int8 tensor of one scale: q stands for (q - zero_point) * scale.
struct Quantization {
  float scale = 1;
  int32_t zero_point = 0;
};

// saturate(round_to_even(x * (1 / scale)) + zero_point); a NaN becomes -128.
inline int8_t quantize_one(float x, float inverse, int32_t zero_point) {
  const float low = static_cast<float>(-128 - zero_point), high = static_cast<float>(127 - zero_point);
  float value = x * inverse;
  value = value > low ? value : low;
  value = value < high ? value : high;
  return static_cast<int8_t>(round_scaled(value, 1.0f) + zero_point);
}

// n floats, each `stride` int8 apart in the result. Returns whether all of them are finite.
bool quantize_strided(const float* x, int64_t n, Quantization to, int8_t* q, int64_t stride);

void quantize_run(const float* x, int64_t n, Quantization to, int8_t* q);

void dequantize_run(const int8_t* q, int64_t n, Quantization from, float* x);

}  // namespace pyprod::int8_conv2d
