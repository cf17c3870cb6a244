#pragma once

#include <cstdint>
#include <vector>

namespace pyprod::probe {

// One way to go through memory once, in order. `from` and `to` are cache-line aligned, `bytes` a multiple of kStep.
struct Pattern {
  const char* name;
  bool reads, writes;
  void (*run)(char* to, const char* from, int64_t bytes);
};

inline constexpr int64_t kStep = 1024;

// With the widest vectors that this CPU has.
std::vector<Pattern> patterns();

}  // namespace pyprod::probe
