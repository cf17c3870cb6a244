#pragma once

#include <cstdint>

#include "common/activation.h"
#include "common/float_types.h"

namespace pyprod::int8_gemm {

// What is written: floats of Epilogue::type, the sums themselves, or integers by the output's scale and zero point.
enum class Store : int { floats, sums, int8, uint8 };

// What becomes of an int32 sum, in float32 and in exactly this order, so that every path, and the GPU, gives the same
// bits:
//
//     sum -= zero_point * sum_k w                              (what the panel's first row is for)
//     y    = activation(sum * (row scale * col_scale) + bias) + residual
//     out  = y, or saturate(round_to_even(y * out_inverse_scale) + out_zero_point); a NaN gives the least integer
struct Epilogue {
  const float* row_scale = nullptr;         // [M], or null: `scale` for every row
  const int32_t* row_zero_point = nullptr;  // [M], or null: `zero_point` for every row
  const float* col_scale = nullptr;         // [N]
  const float* bias = nullptr;              // [N], or null
  Activation activation = Activation::none;
  const void* residual = nullptr;  // [M, N] of type `type`, rows `out_stride` elements apart, or null
  void* out = nullptr;             // [M, N]
  int64_t out_stride = 0;
  Float type = Float::f32;
  Store store = Store::floats;
  float scale = 1;
  int32_t zero_point = 0;
  float out_inverse_scale = 1;
  int32_t out_zero_point = 0;
};

// Of the int8 activations.
constexpr bool has_zero_points(const Epilogue& e) { return e.row_zero_point != nullptr || e.zero_point != 0; }

}  // namespace pyprod::int8_gemm
