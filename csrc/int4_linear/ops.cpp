// The op of this family: checks, schema, and how threads share the work.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/isa.h"
#include "common/output.h"
#include "common/parallel.h"
#include "common/row_view.h"
#include "common/scratch.h"
#include "int4_linear/path.h"

namespace pyprod::int4_linear {
namespace {

// Multiply-adds that are worth a thread: starting one costs 2 us, they take about 2.
constexpr int64_t kGrain = 1 << 19;

const Path& path() {
#if defined(__x86_64__)
  if (isa() >= Isa::avx512_vnni) return kAvx512Vnni;
  if (isa() >= Isa::avx2) return kAvx2;
#endif
  return kPortable;
}

void check_packed(const char* op, const Tensor& packed, const Linear& linear, const Tensor& x) {
  check_dtype(op, "packed", packed, ScalarType::Byte);
  const int64_t panels = ceil_div(linear.n, kPanel), bytes = group_bytes(linear.group, linear.zeros);
  PYPROD_CHECK(
      packed.dim() == 3 && packed.size(0) == panels && packed.size(1) == linear.groups && packed.size(2) == bytes, op,
      ": packed must be [", panels, ", ", linear.groups, ", ", bytes, "] for n=", linear.n, ", k=", linear.k,
      ", group_size=", linear.group, ", got ", shape_text(packed));
  PYPROD_CHECK(packed.is_contiguous(), op, ": packed must be contiguous");
  check_same_device(op, "packed", packed, x);
}

// The call with all of its arguments checked; buffers are not set yet.
Linear check(const Tensor& x, const Tensor& packed, int64_t n, int64_t k, int64_t group, bool zeros,
             const std::optional<Tensor>& bias) {
  constexpr const char* op = "int4_linear";
  Linear linear = {};
  linear.type = check_float(op, "x", x.scalar_type());
  PYPROD_CHECK(n >= 0 && k >= 0, op, ": need n >= 0 and k >= 0, got n=", n, ", k=", k);
  PYPROD_CHECK(group == 32 || group == 64 || group == 128, op, ": group_size must be 32, 64 or 128, got ", group);
  PYPROD_CHECK(x.dim() >= 1 && x.size(x.dim() - 1) == k, op, ": x must be [..., ", k, "], got ", shape_text(x));
  linear.n = n;
  linear.k = k;
  linear.group = group;
  linear.groups = ceil_div(k, group);
  linear.zeros = zeros;
  check_packed(op, packed, linear, x);
  linear.packed = static_cast<const uint8_t*>(packed.const_data_ptr());
  if (bias.has_value()) {
    check_vector(op, "bias", *bias, n, x);
    linear.bias = static_cast<const float*>(bias->const_data_ptr());
  }
  return linear;
}

// All rows are prepared first, then the threads share the panels: a panel stays in L2 while the rows pass.
void run(const Linear& linear, const RowView& x, int64_t m) {
  const Path& isa = path();
  const int64_t work = std::max<int64_t>(1, linear.k);
  parallel_for(0, m, ceil_div(kGrain / 16, work), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) isa.prepare(linear, x.row(row), row);
  });
  const int64_t panels = ceil_div(linear.n, kPanel), grain = ceil_div(kGrain, m * work * kPanel);
  parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      for (int64_t row = 0; row < m; row += isa.tile_rows)
        isa.tile(linear, row, static_cast<int>(std::min<int64_t>(isa.tile_rows, m - row)), panel);
    }
  });
}

Tensor int4_linear(const Tensor& x_in, const Tensor& packed, int64_t n, int64_t k, int64_t group_size, bool zeros,
                   const std::optional<Tensor>& bias) {
  Linear linear = check(x_in, packed, n, k, group_size, zeros, bias);
  std::vector<int64_t> sizes(x_in.sizes().begin(), x_in.sizes().end());
  sizes.back() = n;
  Tensor out = new_output(x_in, sizes, x_in.scalar_type());
  const int64_t m = row_count(x_in);
  if (m == 0 || n == 0) return out;
  linear.out = static_cast<char*>(out.mutable_data_ptr());
  const int64_t floats = m * (linear.groups + 1), padded = linear.groups * linear.group;
  char* buffer = scratch(static_cast<size_t>(floats) * sizeof(float) + static_cast<size_t>(m * padded));
  linear.sums = reinterpret_cast<float*>(buffer);
  linear.row_scale = linear.sums + m * linear.groups;
  linear.q = reinterpret_cast<int8_t*>(linear.row_scale + m);
  run(linear, RowView(x_in, linear.type), m);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) {
  m.def("int4_linear(Tensor x, Tensor packed, int n, int k, int group_size, bool zeros, Tensor? bias=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { m.impl("int4_linear", TORCH_BOX(&int4_linear)); }

}  // namespace pyprod::int4_linear
