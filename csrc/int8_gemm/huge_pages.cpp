// advise_huge_pages: asks Linux to put a big tensor into 2 MB pages. A packed weight of 16 MB is 4096 small pages, more
// than a core's TLB holds: a linear layer of 4096 x 4096 takes 8% longer with them for 1 row and 19% for 32 (Xeon of
// the Sapphire Rapids generation).

#include <sys/mman.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>

#include "common/checks.h"

namespace pyprod::int8_gemm {
namespace {

constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
constexpr int kCollapse = 25;  // MADV_COLLAPSE, Linux 6.1: moves what is there already, at once

// Only whole huge pages inside the tensor: its neighbors in memory stay as they are. Advice: if Linux can't, nothing
// is wrong.
void advise_huge_pages(const Tensor& t) {
  check_dtype("advise_huge_pages", "t", t, ScalarType::Char);
  PYPROD_CHECK(t.is_contiguous(), "advise_huge_pages: t must be contiguous");
  const uintptr_t first = reinterpret_cast<uintptr_t>(t.const_data_ptr()),
                  last = first + static_cast<size_t>(t.numel());
  const uintptr_t begin = (first + kHugePage - 1) / kHugePage * kHugePage, end = last / kHugePage * kHugePage;
  if (begin >= end) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  madvise(reinterpret_cast<void*>(begin), end - begin, kCollapse);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pyprod, m) { m.def("advise_huge_pages(Tensor t) -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(pyprod, CPU, m) { m.impl("advise_huge_pages", TORCH_BOX(&advise_huge_pages)); }

}  // namespace pyprod::int8_gemm
