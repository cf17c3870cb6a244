// advise_huge_pages: asks Linux to put a big tensor into 2 MB pages. A packed weight of 16 MB is 4096 small pages, more
// than a core's TLB holds: a linear layer of 4096 x 4096 takes 8% longer with them for 1 row and 19% for 32 (Xeon of
// the Sapphire Rapids generation).

#include "common/huge_pages.h"

#include <torch/csrc/stable/library.h>

#include "common/checks.h"

namespace pyprod::int8_gemm {
namespace {

constexpr int kCollapse = 25;  // MADV_COLLAPSE, Linux 6.1: moves what is there already, at once

void advise(const Tensor& t) {
  check_dtype("advise_huge_pages", "t", t, ScalarType::Char);
  PYPROD_CHECK(t.is_contiguous(), "advise_huge_pages: t must be contiguous");
  for (const int advice : {MADV_HUGEPAGE, kCollapse})
    advise_huge_pages(t.const_data_ptr(), static_cast<size_t>(t.numel()), advice);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) { m.def("advise_huge_pages(Tensor t) -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { m.impl("advise_huge_pages", TORCH_BOX(&advise)); }

}  // namespace pyprod::int8_gemm
