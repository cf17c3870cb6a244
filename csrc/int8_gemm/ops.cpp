// The ops of this family: schemas, and their CPU implementations.

#include "int8_gemm/ops.h"

#include <torch/csrc/stable/library.h>

#include "int8_gemm/driver.h"

namespace pyprod::int8_gemm {
namespace {

size_t item_size(Float type) { return type == Float::f32 ? 4 : 2; }

std::string isa() { return path().name; }

std::tuple<Tensor, Tensor> quantize_per_token(const Tensor& x_in) {
  const Float type = check_quantize(x_in);
  const Path& isa = path();
  const Tensor x = plain_rows(x_in);
  const int64_t rows = rows_of(x), k = x.size(x.dim() - 1), stride = row_stride(x);
  Tensor q = torch::stable::new_empty(x, x.sizes(), ScalarType::Char);
  Tensor scale = torch::stable::new_empty(x, {x.sizes().data(), x.sizes().size() - 1}, ScalarType::Float);
  const char* from = static_cast<const char*>(x.const_data_ptr());
  int8_t* to = static_cast<int8_t*>(q.mutable_data_ptr());
  float* scales = static_cast<float*>(scale.mutable_data_ptr());
  const int64_t bytes = stride * static_cast<int64_t>(item_size(type));
  torch::stable::parallel_for(0, rows, ceil_div(1 << 15, std::max<int64_t>(1, k)), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) scales[m] = isa.quantize(type, from + m * bytes, k, to + m * k);
  });
  return {q, scale};
}

Tensor gemm(const Tensor& a_in, const Tensor& packed, int64_t n, int64_t k) {
  check_gemm(a_in, packed, n, k);
  const Path& isa = path();
  const Tensor a = plain_rows(a_in);
  const int64_t m = a.size(0), stride = row_stride(a);
  Tensor out = torch::stable::new_empty(a, {m, n}, ScalarType::Int);
  const int8_t* from = static_cast<const int8_t*>(a.const_data_ptr());
  Epilogue epilogue;
  epilogue.store = Store::sums;
  epilogue.out = out.mutable_data_ptr();
  epilogue.out_stride = n;
  const auto prepare = [&](int64_t row, void* prepared) { isa.prepare(from + row * stride, k, prepared); };
  Driver(isa, m, n, k, static_cast<const int8_t*>(packed.const_data_ptr()), prepare, epilogue).run();
  return out;
}

Tensor linear(const Tensor& x_in, const Tensor& packed, int64_t n, int64_t k, const Tensor& w_scale,
              const std::optional<Tensor>& bias, const std::optional<std::string>& activation,
              const std::optional<Tensor>& residual_in, std::optional<ScalarType> out_dtype) {
  const LinearTypes types = check_linear(x_in, packed, n, k, w_scale, bias, activation, residual_in, out_dtype);
  const Path& isa = path();
  const Tensor x = plain_rows(x_in);
  Tensor out = torch::stable::new_empty(x, with_last(x, n), types.out_dtype);
  std::optional<Tensor> residual;
  if (residual_in.has_value()) residual = torch::stable::contiguous(*residual_in);
  const int64_t m = rows_of(x);
  std::vector<float> row_scale(static_cast<size_t>(m));

  Epilogue epilogue;
  epilogue.row_scale = row_scale.data();
  epilogue.col_scale = static_cast<const float*>(w_scale.const_data_ptr());
  epilogue.bias = bias.has_value() ? static_cast<const float*>(bias->const_data_ptr()) : nullptr;
  epilogue.activation = types.activation;
  epilogue.residual = residual.has_value() ? residual->const_data_ptr() : nullptr;
  epilogue.out = out.mutable_data_ptr();
  epilogue.out_stride = n;
  epilogue.type = types.out;

  const char* from = static_cast<const char*>(x.const_data_ptr());
  const int64_t bytes = row_stride(x) * static_cast<int64_t>(item_size(types.in));
  const auto prepare = [&](int64_t row, void* prepared) {
    row_scale[static_cast<size_t>(row)] = isa.prepare_quantized(types.in, from + row * bytes, k, prepared);
  };
  Driver(isa, m, n, k, static_cast<const int8_t*>(packed.const_data_ptr()), prepare, epilogue).run();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def("isa() -> str");
  m.def("quantize_per_token(Tensor x) -> (Tensor, Tensor)");
  m.def("int8_gemm(Tensor a, Tensor packed, int n, int k) -> Tensor");
  m.def(
      "int8_linear(Tensor x, Tensor packed, int n, int k, Tensor w_scale, Tensor? bias=None, str? activation=None, "
      "Tensor? residual=None, ScalarType? out_dtype=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa)); }

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) {
  m.impl("quantize_per_token", TORCH_BOX(&quantize_per_token));
  m.impl("int8_gemm", TORCH_BOX(&gemm));
  m.impl("int8_linear", TORCH_BOX(&linear));
}

}  // namespace pyprod::int8_gemm
