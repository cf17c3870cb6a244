#pragma once

#include <torch/csrc/stable/ops.h>

#include "common/checks.h"

// A tensor [..., K] seen as the rows of a matrix.

namespace pyprod {

inline void check_same_shape(const char* op, const char* name, const Tensor& t, const char* other, const Tensor& x) {
  bool same = t.dim() == x.dim();
  for (int64_t i = 0; same && i < x.dim(); ++i) same = t.size(i) == x.size(i);
  PYPROD_CHECK(same, op, ": ", name, " must be shaped like ", other, ", ", shape_text(x), ", got ", shape_text(t));
}

// The product of all sizes but the last.
inline int64_t row_count(const Tensor& x) {
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) rows *= x.size(i);
  return rows;
}

// Whether the rows are dense and lie at equal distances: a contiguous tensor, or a slice of one along the last
// dimension (one half of a fused gate and up projection).
inline bool has_even_rows(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  if (x.size(last) > 1 && x.stride(last) != 1) return false;
  for (int64_t i = 0; i + 1 < last; ++i) {
    if (x.size(i) > 1 && x.stride(i) != x.size(i + 1) * x.stride(i + 1)) return false;
  }
  return last == 0 || x.stride(last - 1) >= 0;
}

// Rows of one dtype; keeps the memory alive. Copies only what has no even rows.
class RowView {
 public:
  RowView(const Tensor& x, Float type)
      : tensor_(has_even_rows(x) ? x : torch::stable::contiguous(x)),
        data_(static_cast<const char*>(tensor_.const_data_ptr())),
        stride_((x.dim() > 1 ? tensor_.stride(x.dim() - 2) : 0) * (type == Float::f32 ? 4 : 2)) {}

  const char* row(int64_t m) const { return data_ + m * stride_; }
  int64_t stride() const { return stride_; }  // bytes

 private:
  Tensor tensor_;
  const char* data_;
  int64_t stride_;
};

}  // namespace pyprod
