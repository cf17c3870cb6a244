// The CUDA implementations of this family's ops (schemas: ops.cpp).

#include <torch/csrc/stable/library.h>

#include "int8_gemm/cuda.h"
#include "int8_gemm/ops.h"

// Weak: libtorch_cuda has it, a CPU torch does not, and this library loads on both. Stream::nativeHandle() of the
// stable ABI would need torch 2.13.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace pyprod::int8_gemm {
namespace {

using torch::stable::accelerator::DeviceGuard;

void* current_stream(const Tensor& t) {
  PYPROD_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "pyprod: this torch is built without CUDA");
  void* stream = nullptr;
  PYPROD_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream) == 0, "pyprod: no CUDA stream");
  return stream;
}

void check_launch(const char* op, const char* error) { PYPROD_CHECK(error == nullptr, op, ": CUDA: ", error); }

// Rows as launch_gemm() reads them: `a` itself where it fits, else a padded copy.
Tensor aligned_rows(const Tensor& a, int64_t k) {
  const bool fits = k % 16 == 0 && has_plain_rows(a) && row_stride(a) % 16 == 0 &&
                    reinterpret_cast<uintptr_t>(a.const_data_ptr()) % 16 == 0;
  if (fits) return a;
  Tensor padded = torch::stable::new_zeros(a, {a.size(0), padded_row(k)});
  Tensor part = torch::stable::narrow(padded, 1, 0, k);
  torch::stable::copy_(part, a);
  return padded;
}

std::tuple<Tensor, Tensor> quantize_per_token(const Tensor& x_in) {
  const Float type = check_quantize(x_in);
  const DeviceGuard guard(x_in.get_device_index());
  const Tensor x = plain_rows(x_in);
  const int64_t k = x.size(x.dim() - 1);
  Tensor q = new_output(x, x.sizes(), ScalarType::Char);
  Tensor scale = new_output(x, {x.sizes().data(), x.sizes().size() - 1}, ScalarType::Float);
  check_launch("quantize_per_token", launch_quantize(type, x.const_data_ptr(), row_stride(x), rows_of(x), k,
                                                     static_cast<int8_t*>(q.mutable_data_ptr()), k,
                                                     static_cast<float*>(scale.mutable_data_ptr()), current_stream(x)));
  return {q, scale};
}

Tensor gemm(const Tensor& a_in, const Tensor& packed, int64_t n, int64_t k) {
  check_gemm(a_in, packed, n, k);
  const DeviceGuard guard(a_in.get_device_index());
  const Tensor a = aligned_rows(a_in, k);
  Tensor out = new_output(a, {a.size(0), n}, ScalarType::Int);
  CudaGemm call = {};
  call.a = static_cast<const int8_t*>(a.const_data_ptr());
  call.a_stride = row_stride(a);
  call.packed = static_cast<const int8_t*>(packed.const_data_ptr());
  call.m = a.size(0);
  call.n = n;
  call.k = k;
  call.out = out.mutable_data_ptr();
  check_launch("int8_gemm", launch_gemm(call, current_stream(a)));
  return out;
}

Tensor linear(const Tensor& x_in, const Tensor& packed, int64_t n, int64_t k, const Tensor& w_scale,
              const std::optional<Tensor>& bias, const std::optional<StringArgument>& activation,
              const std::optional<Tensor>& residual_in, std::optional<ScalarType> out_dtype) {
  const Layer layer = {packed, n, k, w_scale, bias, activation, residual_in};
  const LinearTypes types = check_linear(x_in, layer, out_dtype);
  const DeviceGuard guard(x_in.get_device_index());
  const Tensor x = plain_rows(x_in);
  const int64_t m = rows_of(x), stride = padded_row(k);
  void* stream = current_stream(x);
  Tensor q = new_output(x, {m, stride}, ScalarType::Char);
  Tensor row_scale = new_output(x, {m}, ScalarType::Float);
  Tensor out = new_output(x, with_last(x, n), types.out_dtype);
  std::optional<Tensor> residual;
  if (residual_in.has_value()) residual = torch::stable::contiguous(*residual_in);

  CudaGemm call = {};
  call.a = static_cast<const int8_t*>(q.const_data_ptr());
  call.a_stride = stride;
  call.packed = static_cast<const int8_t*>(packed.const_data_ptr());
  call.m = m;
  call.n = n;
  call.k = k;
  call.out = out.mutable_data_ptr();
  call.row_scale = static_cast<const float*>(row_scale.const_data_ptr());
  call.col_scale = static_cast<const float*>(w_scale.const_data_ptr());
  call.bias = bias.has_value() ? static_cast<const float*>(bias->const_data_ptr()) : nullptr;
  call.activation = types.activation;
  call.residual = residual.has_value() ? residual->const_data_ptr() : nullptr;
  call.type = types.out;
  check_launch("int8_linear", launch_quantize(types.in, x.const_data_ptr(), row_stride(x), m, k,
                                              static_cast<int8_t*>(q.mutable_data_ptr()), stride,
                                              static_cast<float*>(row_scale.mutable_data_ptr()), stream));
  check_launch("int8_linear", launch_gemm(call, stream));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyprod, CUDA, m) {
  m.impl("quantize_per_token", TORCH_BOX(&quantize_per_token));
  m.impl("int8_gemm", TORCH_BOX(&gemm));
  m.impl("int8_linear", TORCH_BOX(&linear));
}

}  // namespace pyprod::int8_gemm
