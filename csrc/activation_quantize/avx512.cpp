// AVX512.

#if defined(__x86_64__)

#include "activation_quantize/row.h"

namespace pyprod::activation_quantize {
namespace {

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) void row(const Row& row,
                                                                                               float* y) {
  run<16>(row, y);
}

}  // namespace

const Kernel kAvx512 = row;

}  // namespace pyprod::activation_quantize

#endif
