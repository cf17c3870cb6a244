#pragma once

#include <cstdint>
#include <vector>

namespace pyprod::probe {

// A loop of one instruction on registers alone: as fast as this CPU can do that arithmetic, whatever the data.
struct Arithmetic {
  const char* name;
  bool (*supported)();
  int64_t ops;                  // multiplications and additions in one pass
  void (*run)(int64_t passes);  // passes >= 1
};

// Every loop that this CPU and kernel can run.
std::vector<Arithmetic> arithmetics();

}  // namespace pyprod::probe
