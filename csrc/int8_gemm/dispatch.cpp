#include <cstdlib>
#include <stdexcept>
#include <string>

#include "int8_gemm/path.h"

namespace pyprod::int8_gemm {
namespace {

// Best first.
const Path* const kPaths[] = {
#if defined(__x86_64__)
    &kAmx,
    &kAvx512Vnni,
    &kAvx2,
#endif
    &kPortable,
};

const Path& choose() {
  const char* forced = std::getenv("PYPROD_ISA");
  std::string names;
  for (const Path* candidate : kPaths) {
    if (forced == nullptr || *forced == '\0') {
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

}  // namespace pyprod::int8_gemm
