// The CUDA implementations of this family's ops (schemas: ops.cpp, linear.cpp).

#include <torch/csrc/stable/library.h>

#include "common/cuda/ops.h"
#include "int8_gemm/cuda.h"
#include "int8_gemm/linear_ops.h"

namespace pyprod::int8_gemm {
namespace {

// int8 rows as launch_gemm() reads them.
struct Rows {
  Tensor tensor;
  int64_t stride;
};

Rows new_rows(const Tensor& like, int64_t m, int64_t k) {
  return {new_output(like, {m, padded_row(k)}, ScalarType::Char), padded_row(k)};
}

// Bytes a[..., k]: itself where it fits, else a padded copy.
Rows rows_of_bytes(const OnDevice& device, const Tensor& a_in, int64_t k) {
  const bool is_unsigned = a_in.scalar_type() == ScalarType::Byte;
  const Tensor a = plain_rows(a_in);
  const int64_t m = rows_of(a), stride = row_stride(a);
  const bool aligned = stride >= k && stride % 16 == 0 && reinterpret_cast<uintptr_t>(a.const_data_ptr()) % 16 == 0;
  if (!is_unsigned && k % 16 == 0 && aligned) return {a, stride};
  Rows rows = new_rows(a, m, k);
  device.check(launch_pad(is_unsigned, a.const_data_ptr(), stride, m, k,
                          static_cast<int8_t*>(rows.tensor.mutable_data_ptr()), rows.stride, device.stream()));
  return rows;
}

// Whether every row of `n` values can be read and written by fours.
bool whole_fours(const Epilogue& e, int64_t n) {
  const auto aligned = [](const void* pointer, int64_t item) {
    return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(4 * item) == 0;
  };
  const int64_t residual = item_size(e.type);
  const int64_t out = e.store == Store::floats ? residual : e.store == Store::sums ? 4 : 1;
  return n % 4 == 0 && aligned(e.out, out) && aligned(e.residual, residual) && aligned(e.col_scale, 4) &&
         aligned(e.bias, 4);
}

void multiply(const OnDevice& device, const Rows& rows, int64_t m, const Tensor& packed, int64_t n, int64_t k,
              const Epilogue& epilogue) {
  const CudaGemm gemm = {.a = static_cast<const int8_t*>(rows.tensor.const_data_ptr()),
                         .a_stride = rows.stride,
                         .packed = static_cast<const int8_t*>(packed.const_data_ptr()),
                         .m = m,
                         .n = n,
                         .k = k,
                         .epilogue = epilogue,
                         .whole_fours = whole_fours(epilogue, n)};
  device.check(launch_gemm(gemm, device.stream()));
}

std::tuple<Tensor, Tensor> quantize_per_token(const Tensor& x_in) {
  const Float type = check_quantize(x_in);
  const OnDevice device("quantize_per_token", x_in);
  const Tensor x = plain_rows(x_in);
  const int64_t k = x.size(x.dim() - 1);
  Tensor q = new_output(x, x.sizes(), ScalarType::Char);
  Tensor scale = new_output(x, {x.sizes().data(), x.sizes().size() - 1}, ScalarType::Float);
  device.check(launch_quantize({type, x.const_data_ptr()}, row_stride(x), rows_of(x), k,
                               static_cast<int8_t*>(q.mutable_data_ptr()), k,
                               static_cast<float*>(scale.mutable_data_ptr()), nullptr, device.stream()));
  return {q, scale};
}

Tensor gemm(const Tensor& a, const Tensor& packed, int64_t n, int64_t k) {
  check_gemm(a, packed, n, k);
  const OnDevice device("int8_gemm", a);
  Tensor out = new_output(a, {a.size(0), n}, ScalarType::Int);
  Epilogue epilogue;
  epilogue.store = Store::sums;
  epilogue.out = out.mutable_data_ptr();
  epilogue.out_stride = n;
  multiply(device, rows_of_bytes(device, a, k), a.size(0), packed, n, k, epilogue);
  return out;
}

Tensor linear(const Tensor& x_in, const Tensor& packed, int64_t n, int64_t k, const Tensor& w_scale,
              const std::optional<Tensor>& bias, const std::optional<StringArgument>& activation,
              const std::optional<Tensor>& residual_in, std::optional<ScalarType> out_dtype,
              const std::optional<Tensor>& multiplier, bool asymmetric) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const LinearTypes types = check_linear(x_in, layer, out_dtype, multiplier, asymmetric);
  const OnDevice device("int8_linear", x_in);
  const Tensor x = plain_rows(x_in);
  const int64_t m = rows_of(x);
  Rows rows = new_rows(x, m, k);
  Tensor row_scale = new_output(x, {m}, ScalarType::Float);
  std::optional<Tensor> zero_points;
  if (asymmetric) zero_points = new_output(x, {m}, ScalarType::Int);
  int32_t* zero_point = asymmetric ? static_cast<int32_t*>(zero_points->mutable_data_ptr()) : nullptr;
  Tensor out = new_output(x, with_last(x, n), types.out_dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, types, out, residual);
  epilogue.row_scale = static_cast<const float*>(row_scale.const_data_ptr());
  epilogue.row_zero_point = zero_point;
  device.check(launch_quantize({types.in, x.const_data_ptr(), types.multiplier}, row_stride(x), m, k,
                               static_cast<int8_t*>(rows.tensor.mutable_data_ptr()), rows.stride,
                               static_cast<float*>(row_scale.mutable_data_ptr()), zero_point, device.stream()));
  multiply(device, rows, m, packed, n, k, epilogue);
  return out;
}

Tensor linear_prequantized(const Tensor& q, const Tensor& scale, const Tensor& packed, int64_t n, int64_t k,
                           const Tensor& w_scale, const std::optional<Tensor>& bias,
                           const std::optional<StringArgument>& activation, const std::optional<Tensor>& residual_in,
                           std::optional<ScalarType> out_dtype) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const LinearTypes types = check_prequantized("int8_linear_prequantized", q, scale, layer, out_dtype);
  const OnDevice device("int8_linear_prequantized", q);
  Tensor out = new_output(q, with_last(q, n), types.out_dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, types, out, residual);
  epilogue.row_scale = static_cast<const float*>(scale.const_data_ptr());
  multiply(device, rows_of_bytes(device, q, k), rows_of(q), packed, n, k, epilogue);
  return out;
}

Tensor linear_static(const Tensor& x, double x_scale, int64_t x_zero_point, const Tensor& packed, int64_t n, int64_t k,
                     const Tensor& w_scale, const std::optional<Tensor>& bias,
                     const std::optional<StringArgument>& activation, const std::optional<Tensor>& residual_in,
                     std::optional<ScalarType> out_dtype, std::optional<double> out_scale, int64_t out_zero_point) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const Static quantization = {x_scale, x_zero_point, out_scale, out_zero_point};
  const LinearTypes types = check_static(x, quantization, layer, out_dtype);
  const OnDevice device("int8_linear_static", x);
  Tensor out = new_output(x, with_last(x, n), types.out_dtype);
  std::optional<Tensor> residual;
  Epilogue epilogue = epilogue_of(layer, types, out, residual);
  set_static(quantization, x.scalar_type() == ScalarType::Byte, types, epilogue);
  multiply(device, rows_of_bytes(device, x, k), rows_of(x), packed, n, k, epilogue);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyprod, CUDA, m) {
  m.impl("quantize_per_token", TORCH_BOX(&quantize_per_token));
  m.impl("int8_gemm", TORCH_BOX(&gemm));
  m.impl("int8_linear", TORCH_BOX(&linear));
  m.impl("int8_linear_prequantized", TORCH_BOX(&linear_prequantized));
  m.impl("int8_linear_static", TORCH_BOX(&linear_static));
}

}  // namespace pyprod::int8_gemm
