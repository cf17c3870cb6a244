#include "int8_attention/attend.h"

namespace pyprod::int8_attention {
namespace {

int64_t scratch_bytes(const Head& head, const int8_gemm::Path& path) { return Buffers(head, path, nullptr).bytes; }

void run(const Head& head, const int8_gemm::Path& path, char* scratch) { attend<Loops>(head, path, scratch); }

}  // namespace

const Attend kPortable = {scratch_bytes, run};

}  // namespace pyprod::int8_attention
