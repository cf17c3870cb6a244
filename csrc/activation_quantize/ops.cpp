// The ops of this family on the CPU: schemas, and the loop over rows.

#include "activation_quantize/ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/scratch.h"

namespace pyprod::activation_quantize {
namespace {

// Elements that are worth a thread: starting one costs 2 us, they take about 4.
constexpr int64_t kGrain = 1 << 14;

Kernel kernel() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_vnni) return kAvx512;
  if (isa() >= Isa::avx2) return kAvx2;
#endif
  return kPortable;
}

void run(Function function, Float type, const Tensor& x_in, const Tensor* up_in, Tensor& q_out, Tensor& scale_out) {
  const Kernel kernel = activation_quantize::kernel();
  const int64_t k = x_in.size(x_in.dim() - 1);
  const RowView x(x_in, type);
  std::optional<RowView> up;
  if (up_in != nullptr) up.emplace(*up_in, type);
  int8_t* const q = static_cast<int8_t*>(q_out.mutable_data_ptr());
  float* const scale = static_cast<float*>(scale_out.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, k));
  parallel_for(0, row_count(x_in), grain, [&](int64_t begin, int64_t end) {
    float* y = reinterpret_cast<float*>(scratch(static_cast<size_t>(k) * sizeof(float)));
    for (int64_t m = begin; m < end; ++m) {
      const bool more = m + 1 < end;
      const Row row = {.function = function,
                       .type = type,
                       .k = k,
                       .x = x.row(m),
                       .up = up ? up->row(m) : nullptr,
                       .next_x = more ? x.row(m + 1) : nullptr,
                       .next_up = up && more ? up->row(m + 1) : nullptr,
                       .q = q + m * k,
                       .scale = scale + m};
      kernel(row, y);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def("silu_mul_quantize(Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def("gelu_quantize(Tensor x, *, str approximate=\"none\") -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { implement<&run>(m); }

}  // namespace pyprod::activation_quantize
