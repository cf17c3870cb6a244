// The ops of this family on the CPU: schemas, and the loop over rows.

#include "norm/ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "common/stream.h"

namespace pyprod::norm {
namespace {

// Elements that are worth a thread: with fewer, starting it costs more than it saves (2 us against 3 us of work).
constexpr int64_t kGrain = 1 << 14;

Kernel kernel() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_vnni) return kAvx512;
  if (isa() >= Isa::avx2) return kAvx2;
#endif
  return kPortable;
}

char* row_of(Tensor* t, int64_t m, int64_t bytes) {
  return t == nullptr ? nullptr : static_cast<char*>(t->mutable_data_ptr()) + m * bytes;
}

void run(const Call& call, const Outputs& out) {
  Norm norm = call.norm;
  const Kernel kernel = norm::kernel();
  const int64_t k = norm.k, bytes = k * (norm.type == Float::f32 ? 4 : 2);
  const int64_t written = (out.sum ? bytes : 0) + (out.normalized ? bytes : 0);
  norm.stream = row_count(call.x) * written >= kStreamBytes;
  const RowView x(call.x, norm.type);
  std::optional<RowView> residual;
  if (call.residual != nullptr) residual.emplace(*call.residual, norm.type);
  char* const sum = row_of(out.sum, 0, 0);
  char* const normalized = row_of(out.normalized, 0, 0);
  char* const q = row_of(out.q, 0, 0);
  char* const scale = row_of(out.scale, 0, 0);
  const auto at = [](char* base, int64_t offset) { return base == nullptr ? nullptr : base + offset; };
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, k));
  parallel_for(0, row_count(call.x), grain, [&](int64_t begin, int64_t end) {
    float* floats = reinterpret_cast<float*>(scratch(static_cast<size_t>(scratch_floats(k)) * sizeof(float)));
    for (int64_t m = begin; m < end; ++m) {
      const bool more = m + 1 < end;
      Row row = {};
      row.x = x.row(m);
      row.next_x = more ? x.row(m + 1) : nullptr;
      row.residual = residual ? residual->row(m) : nullptr;
      row.next_residual = residual && more ? residual->row(m + 1) : nullptr;
      row.sum = at(sum, m * bytes);
      row.normalized = at(normalized, m * bytes);
      row.q = reinterpret_cast<int8_t*>(at(q, m * k));
      row.scale = reinterpret_cast<float*>(at(scale, m * 4));
      kernel(norm, row, floats);
    }
    if (norm.stream) stream_fence();
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def("rms_norm_quantize(Tensor x, Tensor? weight, float eps) -> (Tensor, Tensor)");
  m.def(
      "layer_norm_quantize(Tensor x, Tensor? weight, Tensor? bias, float eps, Tensor? multiplier=None) "
      "-> (Tensor, Tensor)");
  m.def(
      "add_rms_norm_quantize(Tensor x, Tensor residual, Tensor? weight, float eps, str keep=\"sum\") -> (Tensor, "
      "Tensor, Tensor)");
  m.def(
      "add_layer_norm_quantize(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps, str keep=\"sum\", "
      "Tensor? multiplier=None) -> (Tensor, Tensor, Tensor)");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor? weight, float eps) -> (Tensor, Tensor)");
  m.def("add_layer_norm(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { implement<&run>(m); }

}  // namespace pyprod::norm
