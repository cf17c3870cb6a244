#pragma once

#include <cstdint>
#include <vector>

namespace pyprod::probe {

// The INT8 product as it was before each step that made it fast: for docs/kernels-cpu.md, which shows what every step
// brings. All are exact, none has threads, cache blocking or an epilogue; csrc/int8_gemm/ is what they lead to.
struct Rung {
  const char* name;
  bool (*supported)();
  bool packed;  // takes the weight in panels of 32 channels (int8_gemm/layout.h), else as rows [n, k]
  // out[m, n] = a[m, k] * w^T, all dense.
  void (*product)(const int8_t* a, const int8_t* w, int64_t m, int64_t n, int64_t k, int32_t* out);
};

// From the bottom up.
const std::vector<Rung>& ladder();

}  // namespace pyprod::probe
