// The ops of this family on the GPU.

#include <torch/csrc/stable/library.h>

#include "activation_quantize/cuda.h"
#include "activation_quantize/ops.h"
#include "common/cuda/ops.h"

namespace pyprod::activation_quantize {
namespace {

void run_cuda(Function function, Float type, const Tensor& x_in, const Tensor* up_in, Tensor& q, Tensor& scale) {
  const OnDevice device(function == Function::silu_mul ? "silu_mul_quantize" : "gelu_quantize", x_in);
  const RowView x(x_in, type), up(up_in != nullptr ? *up_in : x_in, type);
  device.check(launch({.function = function,
                       .type = type,
                       .m = row_count(x_in),
                       .k = x_in.size(x_in.dim() - 1),
                       .x = x.row(0),
                       .x_stride = x.stride(),
                       .up = up.row(0),
                       .up_stride = up.stride(),
                       .q = static_cast<int8_t*>(q.mutable_data_ptr()),
                       .scale = static_cast<float*>(scale.mutable_data_ptr())},
                      device.stream()));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyprod, CUDA, m) { implement<&run_cuda>(m); }

}  // namespace pyprod::activation_quantize
