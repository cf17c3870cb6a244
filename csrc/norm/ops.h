#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "common/output.h"
#include "common/row_view.h"
#include "norm/path.h"

// The ops of this family on any device: checks, and results. What computes them is given.

namespace pyprod::norm {

using Vector = std::optional<Tensor>;

// What a call computes besides the norm itself.
struct Call {
  const char* op;
  const Tensor& x;
  const Tensor* residual;
  Norm norm;
};

inline Call check(const char* op, const Tensor& x, const Tensor* residual, bool center, const Vector& weight,
                  const Vector& bias, double eps, const Vector& multiplier = {}) {
  Call call = {op, x, residual, {}};
  call.norm.type = check_float(op, "x", x.scalar_type());
  PYPROD_CHECK(x.dim() >= 1, op, ": x must be [..., K], got a scalar");
  call.norm.k = x.size(x.dim() - 1);
  call.norm.center = center;
  PYPROD_CHECK(eps >= 0, op, ": eps must not be negative, got ", eps);
  call.norm.eps = static_cast<float>(eps);
  if (residual != nullptr) {
    check_dtype(op, "residual", *residual, x.scalar_type());
    check_same_shape(op, "residual", *residual, "x", x);
    check_same_device(op, "residual", *residual, x);
  }
  if (weight.has_value()) {
    check_vector(op, "weight", *weight, call.norm.k, x);
    call.norm.weight = static_cast<const float*>(weight->const_data_ptr());
  }
  if (bias.has_value()) {
    PYPROD_CHECK(weight.has_value(), op, ": bias needs a weight");
    check_vector(op, "bias", *bias, call.norm.k, x);
    call.norm.bias = static_cast<const float*>(bias->const_data_ptr());
  }
  if (multiplier.has_value()) {
    check_vector(op, "multiplier", *multiplier, call.norm.k, x);
    call.norm.multiplier = static_cast<const float*>(multiplier->const_data_ptr());
  }
  return call;
}

// Where a call's results go; null: not wanted.
struct Outputs {
  Tensor* sum = nullptr;
  Tensor* normalized = nullptr;
  Tensor* q = nullptr;
  Tensor* scale = nullptr;
};

using Run = void (*)(const Call& call, const Outputs& out);

using Quantized = std::tuple<Tensor, Tensor>;
using QuantizedAndFloat = std::tuple<Tensor, Tensor, Tensor>;

inline Tensor like(const Tensor& x, ScalarType type) { return new_output(x, x.sizes(), type); }

inline Tensor scales_of(const Tensor& x) {
  return new_output(x, {x.sizes().data(), x.sizes().size() - 1}, ScalarType::Float);
}

template <Run kRun>
Quantized quantized(const Call& call) {
  Tensor q = like(call.x, ScalarType::Char), scale = scales_of(call.x);
  kRun(call, {.q = &q, .scale = &scale});
  return {q, scale};
}

template <Run kRun>
QuantizedAndFloat add_quantized(const Call& call, const StringArgument& keep) {
  PYPROD_CHECK(keep == "sum" || keep == "normalized", call.op, ": keep must be sum or normalized, got ", keep);
  Tensor q = like(call.x, ScalarType::Char), scale = scales_of(call.x), kept = like(call.x, call.x.scalar_type());
  Outputs out = {.q = &q, .scale = &scale};
  (keep == "sum" ? out.sum : out.normalized) = &kept;
  kRun(call, out);
  return {q, scale, kept};
}

template <Run kRun>
std::tuple<Tensor, Tensor> add_float(const Call& call) {
  Tensor normalized = like(call.x, call.x.scalar_type()), sum = like(call.x, call.x.scalar_type());
  kRun(call, {.sum = &sum, .normalized = &normalized});
  return {normalized, sum};
}

template <Run kRun>
Quantized rms_norm_quantize(const Tensor& x, const Vector& weight, double eps) {
  return quantized<kRun>(check("rms_norm_quantize", x, nullptr, false, weight, {}, eps));
}

template <Run kRun>
Quantized layer_norm_quantize(const Tensor& x, const Vector& weight, const Vector& bias, double eps,
                              const Vector& multiplier) {
  return quantized<kRun>(check("layer_norm_quantize", x, nullptr, true, weight, bias, eps, multiplier));
}

template <Run kRun>
QuantizedAndFloat add_rms_norm_quantize(const Tensor& x, const Tensor& residual, const Vector& weight, double eps,
                                        const StringArgument& keep) {
  return add_quantized<kRun>(check("add_rms_norm_quantize", x, &residual, false, weight, {}, eps), keep);
}

template <Run kRun>
QuantizedAndFloat add_layer_norm_quantize(const Tensor& x, const Tensor& residual, const Vector& weight,
                                          const Vector& bias, double eps, const StringArgument& keep,
                                          const Vector& multiplier) {
  const Call call = check("add_layer_norm_quantize", x, &residual, true, weight, bias, eps, multiplier);
  return add_quantized<kRun>(call, keep);
}

template <Run kRun>
std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Vector& weight, double eps) {
  return add_float<kRun>(check("add_rms_norm", x, &residual, false, weight, {}, eps));
}

template <Run kRun>
std::tuple<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual, const Vector& weight,
                                          const Vector& bias, double eps) {
  return add_float<kRun>(check("add_layer_norm", x, &residual, true, weight, bias, eps));
}

// Registers the ops for the device that kRun is for.
template <Run kRun, class Library>
void implement(Library& m) {
  m.impl("rms_norm_quantize", TORCH_BOX(&rms_norm_quantize<kRun>));
  m.impl("layer_norm_quantize", TORCH_BOX(&layer_norm_quantize<kRun>));
  m.impl("add_rms_norm_quantize", TORCH_BOX(&add_rms_norm_quantize<kRun>));
  m.impl("add_layer_norm_quantize", TORCH_BOX(&add_layer_norm_quantize<kRun>));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm<kRun>));
  m.impl("add_layer_norm", TORCH_BOX(&add_layer_norm<kRun>));
}

}  // namespace pyprod::norm
