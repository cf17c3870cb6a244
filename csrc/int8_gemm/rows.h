#pragma once

#include <algorithm>
#include <cstring>

#include "common/quantize.h"
#include "int8_gemm/path.h"

// The parts of a path that need no intrinsics: each path instantiates them under its own target and the compiler
// vectorizes them.

namespace pyprod::int8_gemm {

template <class To, int kOffset>
PYPROD_INLINE void prepare_row(const int8_t* a, int64_t k, To* prepared) {
  for (int64_t i = 0; i < k; ++i) prepared[i] = static_cast<To>(a[i] + kOffset);
  for (int64_t i = k; i < padded_k(k); ++i) prepared[i] = 0;
}

// Quantizes as common/quantize.h says, each q stored with kOffset added; returns the scale.
template <class To, int kOffset, class From>
PYPROD_INLINE float quantize_row(const From* x, int64_t k, To* q) {
  int32_t top = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int32_t bits = magnitude_bits(to_float(x[i]));
    top = bits > top ? bits : top;
  }
  const float scale = row_scale(top);
  if (!is_finite_magnitude(top)) {
    for (int64_t i = 0; i < k; ++i) q[i] = static_cast<To>(kOffset);
    return scale;
  }
  const float inverse = 1.0f / scale;
  for (int64_t i = 0; i < k; ++i) q[i] = static_cast<To>(round_scaled(to_float(x[i]), inverse) + kOffset);
  return scale;
}

template <class To, int kOffset>
PYPROD_INLINE float quantize_row(Float type, const void* x, int64_t k, To* q) {
  switch (type) {
    case Float::f32:
      return quantize_row<To, kOffset>(static_cast<const float*>(x), k, q);
    case Float::bf16:
      return quantize_row<To, kOffset>(static_cast<const BFloat16*>(x), k, q);
    default:
      return quantize_row<To, kOffset>(static_cast<const Float16*>(x), k, q);
  }
}

template <class To, int kOffset>
PYPROD_INLINE float prepare_quantized_row(Float type, const void* x, int64_t k, To* prepared) {
  for (int64_t i = k; i < padded_k(k); ++i) prepared[i] = 0;
  return quantize_row<To, kOffset>(type, x, k, prepared);
}

template <Activation A>
PYPROD_INLINE void activate_all(float* y, int count) {
  for (int i = 0; i < count; ++i) y[i] = activate<A>(y[i]);
}

PYPROD_INLINE void activate_all(Activation activation, float* y, int count) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
      return activate_all<Activation::relu>(y, count);
    case Activation::gelu:
      return activate_all<Activation::gelu>(y, count);
    case Activation::gelu_tanh:
      return activate_all<Activation::gelu_tanh>(y, count);
    case Activation::silu:
      return activate_all<Activation::silu>(y, count);
  }
}

template <class Out>
PYPROD_INLINE void store_row(const float* y, const Out* residual, int cols, Out* out) {
  if (residual == nullptr) {
    for (int j = 0; j < cols; ++j) from_float(y[j], out[j]);
  } else {
    for (int j = 0; j < cols; ++j) from_float(y[j] + to_float(residual[j]), out[j]);
  }
}

template <class Out>
PYPROD_INLINE void store_tile(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const float* y) {
  for (int r = 0; r < rows; ++r) {
    const int64_t at = (m + r) * e.out_stride + n;
    Out* out = static_cast<Out*>(e.out) + at;
    const Out* residual = e.residual != nullptr ? static_cast<const Out*>(e.residual) + at : nullptr;
    if (cols == kPanel) {
      store_row(y + r * kPanel, residual, kPanel, out);  // a constant count: no loop remainder
    } else {
      store_row(y + r * kPanel, residual, cols, out);
    }
  }
}

// The whole tile at each step: activations are long dependency chains, and only many at once fill the machine.
PYPROD_INLINE void finish_tile(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc) {
  alignas(64) float scale[kPanel] = {}, bias[kPanel] = {}, y[kMaxTileRows * kPanel];
  std::memcpy(scale, e.col_scale + n, static_cast<size_t>(cols) * sizeof(float));
  if (e.bias != nullptr) std::memcpy(bias, e.bias + n, static_cast<size_t>(cols) * sizeof(float));
  for (int r = 0; r < rows; ++r) {
    const float row_scale = e.row_scale[m + r];
    const int32_t* from = acc + r * kPanel;
    for (int j = 0; j < kPanel; ++j) y[r * kPanel + j] = static_cast<float>(from[j]) * (row_scale * scale[j]) + bias[j];
  }
  activate_all(e.activation, y, rows * kPanel);
  switch (e.type) {
    case Float::f32:
      return store_tile<float>(e, m, rows, n, cols, y);
    case Float::bf16:
      return store_tile<BFloat16>(e, m, rows, n, cols, y);
    case Float::f16:
      return store_tile<Float16>(e, m, rows, n, cols, y);
  }
}

}  // namespace pyprod::int8_gemm
