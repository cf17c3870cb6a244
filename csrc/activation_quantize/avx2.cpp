// AVX2.

#if defined(__x86_64__)

#include "activation_quantize/row.h"

namespace pyprod::activation_quantize {
namespace {

__attribute__((target("avx2"))) void row(const Row& row, float* y) { run<8>(row, y); }

}  // namespace

const Kernel kAvx2 = row;

}  // namespace pyprod::activation_quantize

#endif
