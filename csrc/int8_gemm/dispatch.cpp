#include <cstdlib>
#include <stdexcept>
#include <string>

#include "int8_gemm/path.h"

namespace pyprod::int8_gemm {
namespace {

// Best first.
const Path* const kPaths[] = {
#if defined(__x86_64__)
    &kAmx,      &kAvx512Vnni, &kAvxVnni, &kAvx2,
#endif
    &kPortable,
};

const char* forced_name() {
  const char* name = std::getenv("PYPROD_ISA");
  return name != nullptr && *name != '\0' ? name : nullptr;
}

const Path& choose() {
  const char* forced = forced_name();
  std::string names;
  for (const Path* candidate : kPaths) {
    if (forced == nullptr) {
      if (candidate->supported()) return *candidate;
    } else if (std::string(forced) == candidate->name) {
      if (candidate->supported()) return *candidate;
      throw std::runtime_error("PYPROD_ISA=" + std::string(forced) + ": this CPU lacks these instructions");
    }
    names += (names.empty() ? "" : ", ") + std::string(candidate->name);
  }
  throw std::runtime_error("PYPROD_ISA=" + std::string(forced) + " is not one of " + names);
}

}  // namespace

const Path& path() {
  static const Path& chosen = choose();
  return chosen;
}

const Path& path_for(int64_t rows) {
#if defined(__x86_64__)
  // One row, 768 x 768: 8.3 us a call by VNNI, 9.3 by AMX, which has tiles to configure; two rows: 10.4 and 9.4.
  static const int64_t few = &path() == &kAmx && forced_name() == nullptr ? 1 : 0;
  if (rows <= few) return kAvx512Vnni;
#endif
  return path();
}

}  // namespace pyprod::int8_gemm
