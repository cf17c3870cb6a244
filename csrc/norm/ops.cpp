// The ops of this family: checks, schemas, and the loop over rows.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <tuple>

#include "common/isa.h"
#include "common/output.h"
#include "common/parallel.h"
#include "common/row_view.h"
#include "common/scratch.h"
#include "common/stream.h"
#include "norm/path.h"

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

using Vector = std::optional<Tensor>;

// What a call computes besides the norm itself.
struct Call {
  const char* op;
  const Tensor& x;
  const Tensor* residual;
  Norm norm;
};

Call check(const char* op, const Tensor& x, const Tensor* residual, bool center, const Vector& weight,
           const Vector& bias, double eps) {
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
  return call;
}

// Where a call's results go; null: not wanted.
struct Outputs {
  Tensor* sum = nullptr;
  Tensor* normalized = nullptr;
  Tensor* q = nullptr;
  Tensor* scale = nullptr;
};

char* row_of(Tensor* t, int64_t m, int64_t bytes) {
  return t == nullptr ? nullptr : static_cast<char*>(t->mutable_data_ptr()) + m * bytes;
}

void run(Call call, const Outputs& out) {
  Norm& norm = call.norm;
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

using Quantized = std::tuple<Tensor, Tensor>;
using QuantizedAndFloat = std::tuple<Tensor, Tensor, Tensor>;

Tensor like(const Tensor& x, ScalarType type) { return new_output(x, x.sizes(), type); }

Tensor scales_of(const Tensor& x) { return new_output(x, {x.sizes().data(), x.sizes().size() - 1}, ScalarType::Float); }

Quantized quantized(const Call& call) {
  Tensor q = like(call.x, ScalarType::Char), scale = scales_of(call.x);
  run(call, {.q = &q, .scale = &scale});
  return {q, scale};
}

QuantizedAndFloat add_quantized(const Call& call, const StringArgument& keep) {
  PYPROD_CHECK(keep == "sum" || keep == "normalized", call.op, ": keep must be sum or normalized, got ", keep);
  Tensor q = like(call.x, ScalarType::Char), scale = scales_of(call.x), kept = like(call.x, call.x.scalar_type());
  Outputs out = {.q = &q, .scale = &scale};
  (keep == "sum" ? out.sum : out.normalized) = &kept;
  run(call, out);
  return {q, scale, kept};
}

std::tuple<Tensor, Tensor> add_float(const Call& call) {
  Tensor normalized = like(call.x, call.x.scalar_type()), sum = like(call.x, call.x.scalar_type());
  run(call, {.sum = &sum, .normalized = &normalized});
  return {normalized, sum};
}

Quantized rms_norm_quantize(const Tensor& x, const Vector& weight, double eps) {
  return quantized(check("rms_norm_quantize", x, nullptr, false, weight, {}, eps));
}

Quantized layer_norm_quantize(const Tensor& x, const Vector& weight, const Vector& bias, double eps) {
  return quantized(check("layer_norm_quantize", x, nullptr, true, weight, bias, eps));
}

QuantizedAndFloat add_rms_norm_quantize(const Tensor& x, const Tensor& residual, const Vector& weight, double eps,
                                        const StringArgument& keep) {
  return add_quantized(check("add_rms_norm_quantize", x, &residual, false, weight, {}, eps), keep);
}

QuantizedAndFloat add_layer_norm_quantize(const Tensor& x, const Tensor& residual, const Vector& weight,
                                          const Vector& bias, double eps, const StringArgument& keep) {
  return add_quantized(check("add_layer_norm_quantize", x, &residual, true, weight, bias, eps), keep);
}

std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Vector& weight, double eps) {
  return add_float(check("add_rms_norm", x, &residual, false, weight, {}, eps));
}

std::tuple<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual, const Vector& weight,
                                          const Vector& bias, double eps) {
  return add_float(check("add_layer_norm", x, &residual, true, weight, bias, eps));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def("rms_norm_quantize(Tensor x, Tensor? weight, float eps) -> (Tensor, Tensor)");
  m.def("layer_norm_quantize(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)");
  m.def(
      "add_rms_norm_quantize(Tensor x, Tensor residual, Tensor? weight, float eps, str keep=\"sum\") -> (Tensor, "
      "Tensor, Tensor)");
  m.def(
      "add_layer_norm_quantize(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps, str keep=\"sum\") "
      "-> (Tensor, Tensor, Tensor)");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor? weight, float eps) -> (Tensor, Tensor)");
  m.def("add_layer_norm(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) {
  m.impl("rms_norm_quantize", TORCH_BOX(&rms_norm_quantize));
  m.impl("layer_norm_quantize", TORCH_BOX(&layer_norm_quantize));
  m.impl("add_rms_norm_quantize", TORCH_BOX(&add_rms_norm_quantize));
  m.impl("add_layer_norm_quantize", TORCH_BOX(&add_layer_norm_quantize));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("add_layer_norm", TORCH_BOX(&add_layer_norm));
}

}  // namespace pyprod::norm
