#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace pyprod {

// Asks Linux for 2 MB pages, or for what else `advice` says. Only whole huge pages inside the memory: its neighbors
// stay as they are. Advice: if Linux can't, nothing is wrong.
inline void advise_huge_pages(const void* data, size_t bytes, int advice = MADV_HUGEPAGE) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t first = reinterpret_cast<uintptr_t>(data), last = first + bytes;
  const uintptr_t begin = (first + kHugePage - 1) / kHugePage * kHugePage, end = last / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace pyprod
