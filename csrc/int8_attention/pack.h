#pragma once

#include <algorithm>
#include <cstring>

#include "common/quantize.h"
#include "int8_attention/head.h"
#include "int8_attention/loops.h"

// Keys and values of a head, quantized and laid out as packed weights (int8_gemm/layout.h), so that the tiles of
// int8_gemm multiply them.

namespace pyprod::int8_attention {

template <class From>
PYPROD_INLINE const float* converted(const char* from, int64_t count, float* buffer) {
  const From* values = reinterpret_cast<const From*>(from);
  for (int64_t i = 0; i < count; ++i) buffer[i] = to_float(values[i]);
  return buffer;
}

// A row as floats: itself where it is float32 already (GCC copies short rows by `rep movsq`, 30 cycles each), otherwise
// converted into `buffer`.
PYPROD_INLINE const float* floats(Float type, const char* from, int64_t count, float* buffer) {
  switch (type) {
    case Float::f32:
      return reinterpret_cast<const float*>(from);
    case Float::bf16:
      return converted<BFloat16>(from, count, buffer);
    case Float::f16:
      return converted<Float16>(from, count, buffer);
  }
  return buffer;
}

// fold(rows, width) for up to a panel's width of channels of kRows tokens from t on.
template <int kRows, class Fold>
PYPROD_INLINE void fold_some(const Rows& x, Float type, int64_t t, int64_t first, int64_t width, const Fold& fold) {
  const int64_t item = type == Float::f32 ? 4 : 2;
  float buffers[kRows][kPanel];
  const float* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = floats(type, x.row(t + r) + first * item, width, buffers[r]);
  if (width == kPanel) return fold(rows, kPanel);  // a constant: its loop has no remainder
  fold(rows, width);
}

// Of every token: four at once, between which `fold` keeps its state in registers (compilers leave it in memory, 8
// cycles a token), then one at a time.
template <class Fold>
PYPROD_INLINE void fold_tokens(const Rows& x, Float type, int64_t tokens, int64_t first, int64_t width,
                               const Fold& fold) {
  int64_t t = 0;
  for (; t + 4 <= tokens; t += 4) fold_some<4>(x, type, t, first, width, fold);
  for (; t < tokens; ++t) fold_some<1>(x, type, t, first, width, fold);
}

// Adds rows, in their order.
struct Sums {
  float* of;
  template <int kRows>
  PYPROD_INLINE void operator()(const float* (&rows)[kRows], int64_t width) const {
    for (int64_t c = 0; c < width; ++c) {
      float sum = of[c];
      for (int r = 0; r < kRows; ++r) sum += rows[r][c];
      of[c] = sum;
    }
  }
};

// Folds rows' magnitude_bits() into each channel's largest.
struct Tops {
  int32_t* of;
  template <int kRows>
  PYPROD_INLINE void operator()(const float* (&rows)[kRows], int64_t width) const {
    for (int64_t c = 0; c < width; ++c) {
      int32_t top = of[c];
      for (int r = 0; r < kRows; ++r) {
        const int32_t bits = magnitude_bits(rows[r][c]);
        top = bits > top ? bits : top;
      }
      of[c] = top;
    }
  }
};

// The mean key. Softmax does not see what is subtracted from every key, and channels that are far from 0 for all
// tokens, as in most models, take the int8 range from the others (SageAttention, arXiv 2410.02367).
PYPROD_INLINE void mean_row(const Rows& k, Float type, int64_t keys, int64_t depth, float* mean) {
  const float inverse = 1.0f / static_cast<float>(keys);
  for (int64_t first = 0; first < depth; first += kPanel) {
    const int64_t count = std::min<int64_t>(kPanel, depth - first);
    float sum[kPanel] = {};
    fold_tokens(k, type, keys, first, count, Sums{sum});
    for (int64_t c = 0; c < count; ++c) mean[first + c] = sum[c] * inverse;
  }
}

// key - mean, a panel's width at a time.
PYPROD_INLINE void center(const float* key, const float* mean, int64_t depth, float* to) {
  int64_t d = 0;
  for (; d + kPanel <= depth; d += kPanel) {
    for (int c = 0; c < kPanel; ++c) to[d + c] = key[d + c] - mean[d + c];
  }
  for (; d < depth; ++d) to[d] = key[d] - mean[d];
}

// Room for a panel of rows: as floats, and quantized.
struct RowBuffers {
  float* floats;  // [32, depth]
  int8_t* q;      // [32, padded depth], zero beyond depth
};

// Panels [keys / 32][1 + padded_depth / 4][32][4] and a scale per key; absent keys of the last panel have scale 0.
// `compensate`: the path reads the panels' first row.
template <class Loops>
PYPROD_INLINE void pack_keys(const Rows& k, Float type, int64_t keys, int64_t depth, int64_t padded_depth,
                             bool compensate, float* mean, const RowBuffers& buffers, int8_t* packed, float* scale) {
  const int64_t words = int8_gemm::ceil_div(depth, 4), panels = int8_gemm::ceil_div(keys, kPanel);
  mean_row(k, type, keys, depth, mean);
  std::memset(packed, 0, static_cast<size_t>(panels * int8_gemm::panel_bytes(padded_depth)));
  for (int64_t t = 0; t < panels * kPanel; ++t) scale[t] = 0.0f;
  for (int64_t first = 0; first < keys; first += kPanel, packed += int8_gemm::panel_bytes(padded_depth)) {
    const int count = static_cast<int>(std::min<int64_t>(kPanel, keys - first));
    const float* rows[kPanel];
    for (int j = 0; j < count; ++j) {
      float* row = buffers.floats + j * depth;
      const float* key = floats(type, k.row(first + j), depth, row);
      center(key, mean, depth, row);
      rows[j] = row;
    }
    Loops::quantize_rows(rows, count, depth, 0, buffers.q, padded_depth, scale + first);
    Loops::interleave(buffers.q, padded_depth, count, words, packed + int8_gemm::kRowBytes);
    if (compensate) {
      Loops::compensate(packed + int8_gemm::kRowBytes, words, reinterpret_cast<int32_t*>(packed));
    }
  }
}

// Four tokens of up to 32 channels, scaled and rounded: one row of a panel; if the path needs them, adds to the
// channels' sums. Unsigned: a channel that holds a NaN, whose scale is NaN whatever its sum, may wrap.
template <bool kCompensate>
PYPROD_INLINE void pack_four(const float* const (&rows)[4], int64_t count, const float* inverse, uint32_t* sums,
                             uint32_t* to) {
  for (int64_t c = 0; c < count; ++c) {
    const uint32_t a = round_scaled(rows[0][c], inverse[c]), b = round_scaled(rows[1][c], inverse[c]);
    const uint32_t e = round_scaled(rows[2][c], inverse[c]), f = round_scaled(rows[3][c], inverse[c]);
    if constexpr (kCompensate) sums[c] += a + b + e + f;
    to[c] = (a & 255) | (b & 255) << 8 | (e & 255) << 16 | f << 24;
  }
}

// Panels [depth / 32][1 + padded_keys / 4][32][4] and a scale per channel (1 where there is none).
template <bool kCompensate>
PYPROD_INLINE void pack_values(const Rows& v, Float type, int64_t keys, int64_t depth, int64_t padded_keys,
                               int8_t* packed, float* scale) {
  const int64_t item = type == Float::f32 ? 4 : 2;
  std::memset(packed, 0, static_cast<size_t>(int8_gemm::ceil_div(depth, kPanel) * int8_gemm::panel_bytes(padded_keys)));
  for (int64_t first = 0; first < depth; first += kPanel, packed += int8_gemm::panel_bytes(padded_keys)) {
    const int64_t count = std::min<int64_t>(kPanel, depth - first);
    int32_t top[kPanel] = {};
    float inverse[kPanel], buffers[4][kPanel];
    const float zeros[kPanel] = {};
    fold_tokens(v, type, keys, first, count, Tops{top});
    for (int c = 0; c < kPanel; ++c) {
      scale[first + c] = row_scale(top[c]);
      inverse[c] = is_finite_magnitude(top[c]) ? 1.0f / scale[first + c] : 0.0f;  // else whatever: the scale is NaN
    }
    alignas(64) uint32_t sums[kPanel] = {};
    uint32_t* to = reinterpret_cast<uint32_t*>(packed + int8_gemm::kRowBytes);
    for (int64_t t = 0; t < keys; t += 4, to += kPanel) {
      const float* rows[4];
      for (int i = 0; i < 4; ++i) {
        rows[i] = t + i < keys ? floats(type, v.row(t + i) + first * item, count, buffers[i]) : zeros;
      }
      if (count == kPanel) {
        pack_four<kCompensate>(rows, kPanel, inverse, sums, to);  // a constant count: no loop remainder
      } else {
        pack_four<kCompensate>(rows, count, inverse, sums, to);
      }
    }
    if constexpr (!kCompensate) continue;
    for (int c = 0; c < kPanel; ++c) sums[c] *= static_cast<uint32_t>(-128);
    std::memcpy(packed, sums, sizeof sums);
  }
}

}  // namespace pyprod::int8_attention
