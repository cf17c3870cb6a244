#if defined(__x86_64__)

#include "int8_attention/attend.h"

#define TARGET __attribute__((target("avx2")))

namespace pyprod::int8_attention {
namespace {

TARGET int64_t scratch_bytes(const Head& head, const int8_gemm::Path& path) {
  return Buffers(head, path, nullptr).bytes;
}

TARGET void run(const Head& head, const int8_gemm::Path& path, char* scratch) { attend<Loops>(head, path, scratch); }

}  // namespace

const Attend kAvx2 = {scratch_bytes, run};

}  // namespace pyprod::int8_attention

#endif
