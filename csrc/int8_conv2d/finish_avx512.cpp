#include "int8_conv2d/finish.h"

#if defined(__x86_64__)

#include "common/isa.h"
#include "int8_conv2d/finish_avx512.h"

namespace pyprod::int8_conv2d {

bool has_finish_avx512(const Conv& conv) {
  return isa() >= Isa::avx512_vnni && (conv.activation == Activation::none || conv.activation == Activation::relu);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))) void finish_avx512(
    const Conv& conv, const void* residual, void* out, int64_t m, int rows, int64_t n, const int32_t* acc,
    const int8_t* panel) {
  Finish(conv, residual, out, n, panel).rows(m, rows, acc);
}

}  // namespace pyprod::int8_conv2d

#else

namespace pyprod::int8_conv2d {

bool has_finish_avx512(const Conv&) { return false; }

void finish_avx512(const Conv&, const void*, void*, int64_t, int, int64_t, const int32_t*, const int8_t*) {}

}  // namespace pyprod::int8_conv2d

#endif
