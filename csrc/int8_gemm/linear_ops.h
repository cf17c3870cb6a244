#pragma once

#include <cfloat>

#include "int8_gemm/epilogue.h"
#include "int8_gemm/ops.h"

// Whole linear layers on any device: the checks of their arguments, and the epilogue that those describe.

namespace pyprod::int8_gemm {

// What every linear layer takes besides its activations x [..., k]; `residual_dtype`: that of the sum it is added to.
struct Layer {
  const Tensor& packed;
  int64_t n, k;
  const Tensor& w_scale;
  const std::optional<Tensor>& bias;
  const std::optional<StringArgument>& activation;
  const std::optional<Tensor>& residual;
};

inline Activation check_layer(const char* op, const char* x_name, const Tensor& x, const Layer& layer,
                              ScalarType residual_dtype) {
  const int64_t last = x.dim() - 1;
  PYPROD_CHECK(x.dim() >= 1 && x.size(last) == layer.k, op, ": ", x_name, " must be [..., ", layer.k, "], got ",
               shape_text(x));
  check_packed(op, layer.packed, layer.n, layer.k, x);
  check_vector(op, "w_scale", layer.w_scale, layer.n, x);
  if (layer.bias.has_value()) check_vector(op, "bias", *layer.bias, layer.n, x);
  const Activation activation = check_activation(op, layer.activation);
  if (layer.residual.has_value()) {
    const Tensor& residual = *layer.residual;
    check_dtype(op, "residual", residual, residual_dtype);
    bool same = residual.dim() == x.dim() && residual.size(last) == layer.n;
    for (int64_t i = 0; same && i < last; ++i) same = residual.size(i) == x.size(i);
    PYPROD_CHECK(same, op, ": residual must be shaped like the output, got ", shape_text(residual));
    check_same_device(op, "residual", residual, x);
  }
  return activation;
}

// The types of an int8_linear call after all of its arguments were checked.
struct LinearTypes {
  Float in, out;
  ScalarType out_dtype;
  Activation activation;
  const float* multiplier = nullptr;  // [k] of the activations that are quantized here, or null
  bool asymmetric = false;            // whether those get zero points
};

inline LinearTypes check_linear(const Tensor& x, const Layer& layer, std::optional<ScalarType> out_dtype,
                                const std::optional<Tensor>& multiplier, bool asymmetric) {
  constexpr const char* op = "int8_linear";
  LinearTypes types;
  types.in = check_float(op, "x", x.scalar_type());
  types.out_dtype = out_dtype.value_or(x.scalar_type());
  types.out = check_float(op, "out_dtype", types.out_dtype);
  types.activation = check_layer(op, "x", x, layer, types.out_dtype);
  if (multiplier.has_value()) {
    check_vector(op, "multiplier", *multiplier, layer.k, x);
    types.multiplier = static_cast<const float*>(multiplier->const_data_ptr());
  }
  PYPROD_CHECK(!asymmetric || layer.k <= kMaxShiftedK, op, ": asymmetric takes k <= ", kMaxShiftedK, ", got ", layer.k);
  types.asymmetric = asymmetric;
  return types;
}

inline void check_row_scale(const char* op, const Tensor& q, const Tensor& scale) {
  check_dtype(op, "scale", scale, ScalarType::Float);
  bool same = scale.dim() == q.dim() - 1;
  for (int64_t i = 0; same && i < scale.dim(); ++i) same = scale.size(i) == q.size(i);
  PYPROD_CHECK(same, op, ": scale must have the shape of q without its last dimension, got ", shape_text(scale));
  PYPROD_CHECK(scale.is_contiguous(), op, ": scale must be contiguous");
  check_same_device(op, "scale", scale, q);
}

// Of activations that were quantized row by row before.
inline LinearTypes check_prequantized(const char* op, const Tensor& q, const Tensor& scale, const Layer& layer,
                                      std::optional<ScalarType> out_dtype) {
  LinearTypes types = {};
  types.out_dtype = out_dtype.value_or(ScalarType::Float);
  check_dtype(op, "q", q, ScalarType::Char);
  types.out = check_float(op, "out_dtype", types.out_dtype);
  types.activation = check_layer(op, "q", q, layer, types.out_dtype);
  check_row_scale(op, q, scale);
  return types;
}

inline bool is_byte(ScalarType type) { return type == ScalarType::Char || type == ScalarType::Byte; }

inline void check_quantization(const char* op, const char* scale_name, double scale, const char* zero_name,
                               int64_t zero, ScalarType type) {
  PYPROD_CHECK(scale >= FLT_MIN && scale <= FLT_MAX, op, ": ", scale_name, " must be positive, finite and normal, got ",
               scale);
  const int64_t low = type == ScalarType::Char ? -128 : 0;
  PYPROD_CHECK(zero >= low && zero <= low + 255, op, ": ", zero_name, " must be in [", low, ", ", low + 255, "] for ",
               dtype_name(type), ", got ", zero);
}

// The scales of a layer whose activations have one for all of them.
struct Static {
  double x_scale;
  int64_t x_zero_point;
  std::optional<double> out_scale;  // given: the output is int8 or uint8
  int64_t out_zero_point;
};

// LinearTypes::out is the type that y and the residual have.
inline LinearTypes check_static(const Tensor& x, const Static& quantization, const Layer& layer,
                                std::optional<ScalarType> out_dtype) {
  constexpr const char* op = "int8_linear_static";
  const bool requantizes = quantization.out_scale.has_value();
  const ScalarType in = x.scalar_type();
  LinearTypes types = {};
  PYPROD_CHECK(is_byte(in), op, ": x_q must be int8 or uint8, got ", dtype_name(in));
  check_quantization(op, "x_scale", quantization.x_scale, "x_zero_point", quantization.x_zero_point, in);
  types.out_dtype = out_dtype.value_or(requantizes ? ScalarType::Char : ScalarType::Float);
  if (requantizes) {
    PYPROD_CHECK(is_byte(types.out_dtype), op, ": out_dtype must be int8 or uint8 with out_scale, got ",
                 dtype_name(types.out_dtype));
    check_quantization(op, "out_scale", *quantization.out_scale, "out_zero_point", quantization.out_zero_point,
                       types.out_dtype);
  }
  const ScalarType floats = requantizes ? ScalarType::Float : types.out_dtype;
  types.out = check_float(op, "out_dtype", floats);
  types.activation = check_layer(op, "x_q", x, layer, floats);
  PYPROD_CHECK(layer.k <= kMaxShiftedK, op, ": k must be <= ", kMaxShiftedK, ", got ", layer.k);
  return types;
}

// The epilogue of a layer into `out`; `residual` holds the contiguous one for as long as the epilogue is used.
inline Epilogue epilogue_of(const Layer& layer, const LinearTypes& types, Tensor& out,
                            std::optional<Tensor>& residual) {
  if (layer.residual.has_value()) residual = torch::stable::contiguous(*layer.residual);
  Epilogue e;
  e.col_scale = static_cast<const float*>(layer.w_scale.const_data_ptr());
  e.bias = layer.bias.has_value() ? static_cast<const float*>(layer.bias->const_data_ptr()) : nullptr;
  e.activation = types.activation;
  e.residual = residual.has_value() ? residual->const_data_ptr() : nullptr;
  e.out = out.mutable_data_ptr();
  e.out_stride = layer.n;
  e.type = types.out;
  return e;
}

// `is_unsigned`: the activations are uint8, and the kernel gets them lowered by 128.
inline void set_static(const Static& quantization, bool is_unsigned, const LinearTypes& types, Epilogue& epilogue) {
  epilogue.scale = static_cast<float>(quantization.x_scale);
  epilogue.zero_point = static_cast<int32_t>(is_unsigned ? quantization.x_zero_point - 128 : quantization.x_zero_point);
  if (!quantization.out_scale.has_value()) return;
  epilogue.store = types.out_dtype == ScalarType::Byte ? Store::uint8 : Store::int8;
  epilogue.out_inverse_scale = 1.0f / static_cast<float>(*quantization.out_scale);
  epilogue.out_zero_point = static_cast<int32_t>(quantization.out_zero_point);
}

}  // namespace pyprod::int8_gemm
