// Whole linear layers on the CPU: float activations quantized on the way, activations that were quantized row by row
// before, and activations of one static scale and zero point.

#include <torch/csrc/stable/library.h>

#include "common/parallel.h"
#include "int8_gemm/driver.h"
#include "int8_gemm/linear_ops.h"

namespace pyprod::int8_gemm {
namespace {

const int8_t* bytes_of(const Tensor& packed) { return static_cast<const int8_t*>(packed.const_data_ptr()); }

Tensor linear(const Tensor& x_in, const Tensor& packed, int64_t n, int64_t k, const Tensor& w_scale,
              const std::optional<Tensor>& bias, const std::optional<StringArgument>& activation,
              const std::optional<Tensor>& residual_in, std::optional<ScalarType> out_dtype,
              const std::optional<Tensor>& multiplier, bool asymmetric) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const LinearTypes types = check_linear(x_in, layer, out_dtype, multiplier, asymmetric);
  const Tensor x = plain_rows(x_in);
  Tensor out = new_output(x, with_last(x, n), types.out_dtype);
  std::optional<Tensor> residual;
  const Epilogue epilogue = epilogue_of(layer, types, out, residual);
  const FloatRows rows = {types.in, x.const_data_ptr(), row_stride(x) * item_size(types.in), types.multiplier,
                          asymmetric};
  run_quantized(TorchThreads(), rows, rows_of(x_in), n, k, bytes_of(packed), epilogue);
  return out;
}

Tensor linear_prequantized(const Tensor& q_in, const Tensor& scale, const Tensor& packed, int64_t n, int64_t k,
                           const Tensor& w_scale, const std::optional<Tensor>& bias,
                           const std::optional<StringArgument>& activation, const std::optional<Tensor>& residual_in,
                           std::optional<ScalarType> out_dtype) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const LinearTypes types = check_prequantized("int8_linear_prequantized", q_in, scale, layer, out_dtype);
  const int64_t m = rows_of(q_in);
  const Path& isa = path_for(m);
  const Tensor q = plain_rows(q_in);
  Tensor out = new_output(q, with_last(q, n), types.out_dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, types, out, residual);
  epilogue.row_scale = static_cast<const float*>(scale.const_data_ptr());
  const int8_t* from = static_cast<const int8_t*>(q.const_data_ptr());
  const int64_t stride = row_stride(q);
  const auto prepare = [&](int64_t row, void* prepared) { isa.prepare(from + row * stride, k, prepared); };
  Driver(TorchThreads(), isa, m, n, k, bytes_of(packed), prepare, epilogue).run();
  return out;
}

Tensor linear_static(const Tensor& x_in, double x_scale, int64_t x_zero_point, const Tensor& packed, int64_t n,
                     int64_t k, const Tensor& w_scale, const std::optional<Tensor>& bias,
                     const std::optional<StringArgument>& activation, const std::optional<Tensor>& residual_in,
                     std::optional<ScalarType> out_dtype, std::optional<double> out_scale, int64_t out_zero_point) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const Static quantization = {x_scale, x_zero_point, out_scale, out_zero_point};
  const LinearTypes types = check_static(x_in, quantization, layer, out_dtype);
  const bool is_unsigned = x_in.scalar_type() == ScalarType::Byte;
  const int64_t m = rows_of(x_in);
  const Path& isa = path_for(m);
  const Tensor x = plain_rows(x_in);
  Tensor out = new_output(x, with_last(x, n), types.out_dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, types, out, residual);
  set_static(quantization, is_unsigned, types, epilogue);
  const uint8_t* from = static_cast<const uint8_t*>(x.const_data_ptr());
  const int64_t stride = row_stride(x);
  const auto prepare = [&](int64_t row, void* prepared) {
    const uint8_t* bytes = from + row * stride;
    if (is_unsigned) {
      isa.prepare_unsigned(bytes, k, prepared);
    } else {
      isa.prepare(reinterpret_cast<const int8_t*>(bytes), k, prepared);
    }
  };
  Driver(TorchThreads(), isa, m, n, k, bytes_of(packed), prepare, epilogue).run();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def(
      "int8_linear(Tensor x, Tensor packed, int n, int k, Tensor w_scale, Tensor? bias=None, str? activation=None, "
      "Tensor? residual=None, ScalarType? out_dtype=None, Tensor? multiplier=None, bool asymmetric=False) -> Tensor");
  m.def(
      "int8_linear_prequantized(Tensor q, Tensor scale, Tensor packed, int n, int k, Tensor w_scale, "
      "Tensor? bias=None, str? activation=None, Tensor? residual=None, ScalarType? out_dtype=None) -> Tensor");
  m.def(
      "int8_linear_static(Tensor x_q, float x_scale, int x_zero_point, Tensor packed, int n, int k, Tensor w_scale, "
      "Tensor? bias=None, str? activation=None, Tensor? residual=None, ScalarType? out_dtype=None, "
      "float? out_scale=None, int out_zero_point=0) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) {
  m.impl("int8_linear", TORCH_BOX(&linear));
  m.impl("int8_linear_prequantized", TORCH_BOX(&linear_prequantized));
  m.impl("int8_linear_static", TORCH_BOX(&linear_static));
}

}  // namespace pyprod::int8_gemm
