// The ops of this family on the GPU.

#include <torch/csrc/stable/library.h>

#include "common/cuda/ops.h"
#include "norm/cuda.h"
#include "norm/ops.h"

namespace pyprod::norm {
namespace {

template <class T>
T* data_of(Tensor* t) {
  return t == nullptr ? nullptr : static_cast<T*>(t->mutable_data_ptr());
}

void run_cuda(const Call& call, const Outputs& out) {
  const OnDevice device(call.op, call.x);
  const RowView x(call.x, call.norm.type);
  std::optional<RowView> residual;
  if (call.residual != nullptr) residual.emplace(*call.residual, call.norm.type);
  device.check(launch({.norm = call.norm,
                       .m = row_count(call.x),
                       .x = x.row(0),
                       .x_stride = x.stride(),
                       .residual = residual ? residual->row(0) : nullptr,
                       .residual_stride = residual ? residual->stride() : 0,
                       .sum = data_of<void>(out.sum),
                       .normalized = data_of<void>(out.normalized),
                       .q = data_of<int8_t>(out.q),
                       .scale = data_of<float>(out.scale)},
                      device.stream()));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(pyprod, CUDA, m) { implement<&run_cuda>(m); }

}  // namespace pyprod::norm
