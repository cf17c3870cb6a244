#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/quantize.h"
#include "int8_gemm/path.h"

// The parts of a path that need no intrinsics: each path instantiates them under its own target and the compiler
// vectorizes them.

namespace pyprod::int8_gemm {

// A word of prepared bytes: four k of a row, to be multiplied by a word of each channel.
PYPROD_INLINE int32_t four_bytes(const char* a) {
  int32_t four;
  std::memcpy(&four, a, sizeof four);
  return four;
}

template <class To, int kOffset, class From>
PYPROD_INLINE void prepare_row(const From* a, int64_t k, To* prepared) {
  for (int64_t i = 0; i < k; ++i) prepared[i] = static_cast<To>(a[i] + kOffset);
  for (int64_t i = k; i < padded_k(k); ++i) prepared[i] = 0;
}

template <class To, int kOffset>
PYPROD_INLINE RowCode prepare_quantized_row(const FloatRow& x, int64_t k, To* prepared) {
  for (int64_t i = k; i < padded_k(k); ++i) prepared[i] = 0;
  return quantize_floats<kOffset>(x, k, prepared);
}

template <int kLanes>
PYPROD_INLINE void activate_all(Activation activation, float* y, int count) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
      return pyprod::activate_all<Activation::relu, kLanes>(y, count);
    case Activation::gelu:
      return pyprod::activate_all<Activation::gelu, kLanes>(y, count);
    case Activation::gelu_tanh:
      return pyprod::activate_all<Activation::gelu_tanh, kLanes>(y, count);
    case Activation::silu:
      return pyprod::activate_all<Activation::silu, kLanes>(y, count);
  }
}

template <class Out>
PYPROD_INLINE void store_row(const Epilogue&, const float* y, const Out* residual, int cols, Out* out) {
  if (residual == nullptr) {
    for (int j = 0; j < cols; ++j) from_float(y[j], out[j]);
  } else {
    for (int j = 0; j < cols; ++j) from_float(y[j] + to_float(residual[j]), out[j]);
  }
}

// Saturates before it rounds: the bounds are integers, and round_scaled() takes |value| < 2^22. NaN gives `low`.
template <class Out>
PYPROD_INLINE void quantize_output(const Epilogue& e, const float* y, int cols, Out* out) {
  const float low = static_cast<float>(std::numeric_limits<Out>::min() - e.out_zero_point);
  const float high = static_cast<float>(std::numeric_limits<Out>::max() - e.out_zero_point);
  for (int j = 0; j < cols; ++j) {
    float value = y[j] * e.out_inverse_scale;
    value = value > low ? value : low;
    value = value < high ? value : high;
    out[j] = static_cast<Out>(round_scaled(value, 1.0f) + e.out_zero_point);
  }
}

template <class Out>
  requires std::is_integral_v<Out>
PYPROD_INLINE void store_row(const Epilogue& e, const float* y, const float* residual, int cols, Out* out) {
  if (residual == nullptr) return quantize_output(e, y, cols, out);
  float sum[kPanel];
  for (int j = 0; j < cols; ++j) sum[j] = y[j] + residual[j];
  quantize_output(e, sum, cols, out);
}

template <class Out, class Residual>
PYPROD_INLINE void store_tile(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const float* y) {
  for (int r = 0; r < rows; ++r) {
    const int64_t at = (m + r) * e.out_stride + n;
    Out* out = static_cast<Out*>(e.out) + at;
    const Residual* residual = e.residual != nullptr ? static_cast<const Residual*>(e.residual) + at : nullptr;
    if (cols == kPanel) {
      store_row(e, y + r * kPanel, residual, kPanel, out);  // a constant count: no loop remainder
    } else {
      store_row(e, y + r * kPanel, residual, cols, out);
    }
  }
}

PYPROD_INLINE void store_tile(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const float* y) {
  if (e.store == Store::int8) return store_tile<int8_t, float>(e, m, rows, n, cols, y);
  if (e.store == Store::uint8) return store_tile<uint8_t, float>(e, m, rows, n, cols, y);
  switch (e.type) {
    case Float::f32:
      return store_tile<float, float>(e, m, rows, n, cols, y);
    case Float::bf16:
      return store_tile<BFloat16, BFloat16>(e, m, rows, n, cols, y);
    case Float::f16:
      return store_tile<Float16, Float16>(e, m, rows, n, cols, y);
  }
}

PYPROD_INLINE void store_sums(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc) {
  int32_t* out = static_cast<int32_t*>(e.out) + m * e.out_stride + n;
  for (int r = 0; r < rows; ++r, out += e.out_stride) {
    for (int j = 0; j < cols; ++j) out[j] = acc[r * kPanel + j];
  }
}

// sum_k w of each channel of a panel, whose first row holds -128 * sum_k w.
PYPROD_INLINE void weight_sums(const int8_t* panel, int32_t* sums) {
  std::memcpy(sums, panel, kRowBytes);
  for (int j = 0; j < kPanel; ++j) sums[j] = sums[j] / -128;
}

PYPROD_INLINE void zero_point_sums(int32_t zero_point, const int8_t* panel, int32_t* sums) {
  weight_sums(panel, sums);
  for (int j = 0; j < kPanel; ++j) sums[j] = sums[j] * zero_point;
}

// Four rows at a time: activations are long dependency chains, and only several vectors at once fill the machine.
// `kLanes`: floats of a vector. `kRowZeros`: whether rows have zero points.
template <int kLanes, bool kRowZeros>
PYPROD_INLINE void finish_floats(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                                 const int8_t* panel) {
  constexpr int kGroup = 4;
  alignas(64) float scale[kPanel] = {}, bias[kPanel] = {}, y[kGroup * kPanel];
  alignas(64) int32_t sums[kPanel], offset[kPanel] = {};  // of the weights, and that times a zero point
  std::memcpy(scale, e.col_scale + n, static_cast<size_t>(cols) * sizeof(float));
  if (e.bias != nullptr) std::memcpy(bias, e.bias + n, static_cast<size_t>(cols) * sizeof(float));
  if (e.zero_point != 0) zero_point_sums(e.zero_point, panel, offset);
  if (kRowZeros) weight_sums(panel, sums);
  for (int first = 0; first < rows; first += kGroup) {
    const int group = rows - first < kGroup ? rows - first : kGroup;
    for (int r = 0; r < group; ++r) {
      const float row_scale = e.row_scale != nullptr ? e.row_scale[m + first + r] : e.scale;
      const int32_t* from = acc + (first + r) * kPanel;
      float* to = y + r * kPanel;
      if (kRowZeros) {
        for (int j = 0; j < kPanel; ++j) offset[j] = sums[j] * e.row_zero_point[m + first + r];
      }
      for (int j = 0; j < kPanel; ++j)
        to[j] = static_cast<float>(from[j] - offset[j]) * (row_scale * scale[j]) + bias[j];
    }
    activate_all<kLanes>(e.activation, y, group * kPanel);
    store_tile(e, m + first, group, n, cols, y);
  }
}

template <int kLanes>
PYPROD_INLINE void finish_tile(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc,
                               const int8_t* panel) {
  if (e.store == Store::sums) return store_sums(e, m, rows, n, cols, acc);
  if (e.row_zero_point != nullptr) return finish_floats<kLanes, true>(e, m, rows, n, cols, acc, panel);
  finish_floats<kLanes, false>(e, m, rows, n, cols, acc, panel);
}

// Path::block of tile() and finish(): for each tile of rows all panels. The rows are shared out evenly between the
// tiles: a last tile of one row would run at a quarter of the speed.
inline void block_of_tiles(const Path& path, const Block& b, const Epilogue& epilogue) {
  const int64_t tiles = ceil_div(b.count, path.tile_rows);
  alignas(64) int32_t acc[kMaxTileRows * kPanel];
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t r = t * b.count / tiles;
    const int height = static_cast<int>((t + 1) * b.count / tiles - r);
    for (int64_t p = b.begin; p < b.end; ++p) {
      const int8_t* panel = b.packed + p * panel_bytes(b.k);
      path.tile(height, b.rows + r * b.stride, b.stride, panel, b.k, acc);
      path.finish(epilogue, b.m + r, height, p * kPanel, columns(b, p), acc, panel);
    }
  }
}

}  // namespace pyprod::int8_gemm
