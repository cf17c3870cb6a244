#pragma once

#include <torch/csrc/stable/ops.h>

#include <numeric>
#include <tuple>

#include "common/checks.h"
#include "common/output.h"
#include "int8_gemm/layout.h"

// What the CPU and the CUDA ops share: the checks of their arguments and the shapes of their results (of whole linear
// layers: linear_ops.h).

namespace pyprod::int8_gemm {

inline void check_packed(const char* op, const Tensor& packed, int64_t n, int64_t k, const Tensor& first) {
  check_dtype(op, "packed", packed, ScalarType::Char);
  PYPROD_CHECK(n >= 0 && k >= 0 && k <= kMaxK, op, ": need n >= 0 and 0 <= k <= ", kMaxK, ", got n=", n, ", k=", k);
  PYPROD_CHECK(packed.dim() == 4 && packed.size(0) == ceil_div(n, kPanel) && packed.size(1) == 1 + ceil_div(k, 4) &&
                   packed.size(2) == kPanel && packed.size(3) == 4,
               op, ": packed must be [", ceil_div(n, kPanel), ", ", 1 + ceil_div(k, 4), ", ", kPanel, ", 4] for n=", n,
               ", k=", k, ", got ", shape_text(packed));
  PYPROD_CHECK(packed.is_contiguous(), op, ": packed must be contiguous");
  check_same_device(op, "packed", packed, first);
}

inline void check_gemm(const Tensor& a, const Tensor& packed, int64_t n, int64_t k) {
  check_dtype("int8_gemm", "a", a, ScalarType::Char);
  PYPROD_CHECK(a.dim() == 2 && a.size(1) == k, "int8_gemm: a must be [M, ", k, "], got ", shape_text(a));
  check_packed("int8_gemm", packed, n, k, a);
}

inline Float check_quantize(const Tensor& x) {
  PYPROD_CHECK(x.dim() >= 1, "quantize_per_token: x must be [..., K], got a scalar");
  return check_float("quantize_per_token", "x", x.scalar_type());
}

// The sizes of x with the last one replaced.
inline std::vector<int64_t> with_last(const Tensor& x, int64_t last) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = last;
  return sizes;
}

// Rows of x seen as [rows, K]: the product of all sizes but the last.
inline int64_t rows_of(const Tensor& x) {
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) rows *= x.size(i);
  return rows;
}

// Whether x, seen as [rows, K], has dense rows at an equal distance: a matrix with any row stride, or contiguous.
inline bool has_plain_rows(const Tensor& x) {
  return x.is_contiguous() || (x.dim() == 2 && x.stride(1) == 1 && x.stride(0) >= 0);
}

inline Tensor plain_rows(const Tensor& x) { return has_plain_rows(x) ? x : torch::stable::contiguous(x); }

// Elements from one row of a plain_rows() tensor to the next.
inline int64_t row_stride(const Tensor& x) { return x.dim() == 2 ? x.stride(0) : x.size(x.dim() - 1); }

}  // namespace pyprod::int8_gemm
