#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "activation_quantize/path.h"
#include "common/output.h"
#include "common/row_view.h"

// The ops of this family on any device: checks, and results. What computes them is given.

namespace pyprod::activation_quantize {

inline Float check_input(const char* op, const char* name, const Tensor& x) {
  PYPROD_CHECK(x.dim() >= 1, op, ": ", name, " must be [..., K], got a scalar");
  return check_float(op, name, x.scalar_type());
}

// `up` is null unless `function` takes it.
using Run = void (*)(Function function, Float type, const Tensor& x, const Tensor* up, Tensor& q, Tensor& scale);

template <Run kRun>
std::tuple<Tensor, Tensor> quantized(Function function, Float type, const Tensor& x, const Tensor* up) {
  Tensor q = new_output(x, x.sizes(), ScalarType::Char);
  Tensor scale = new_output(x, {x.sizes().data(), x.sizes().size() - 1}, ScalarType::Float);
  kRun(function, type, x, up, q, scale);
  return {q, scale};
}

template <Run kRun>
std::tuple<Tensor, Tensor> silu_mul_quantize(const Tensor& gate, const Tensor& up) {
  constexpr const char* op = "silu_mul_quantize";
  const Float type = check_input(op, "gate", gate);
  check_dtype(op, "up", up, gate.scalar_type());
  check_same_shape(op, "up", up, "gate", gate);
  check_same_device(op, "up", up, gate);
  return quantized<kRun>(Function::silu_mul, type, gate, &up);
}

template <Run kRun>
std::tuple<Tensor, Tensor> gelu_quantize(const Tensor& x, const StringArgument& approximate) {
  constexpr const char* op = "gelu_quantize";
  const Float type = check_input(op, "x", x);
  PYPROD_CHECK(approximate == "none" || approximate == "tanh", op, ": approximate must be none or tanh, got ",
               approximate);
  return quantized<kRun>(approximate == "none" ? Function::gelu : Function::gelu_tanh, type, x, nullptr);
}

// Registers the ops for the device that kRun is for.
template <Run kRun, class Library>
void implement(Library& m) {
  m.impl("silu_mul_quantize", TORCH_BOX(&silu_mul_quantize<kRun>));
  m.impl("gelu_quantize", TORCH_BOX(&gelu_quantize<kRun>));
}

}  // namespace pyprod::activation_quantize
