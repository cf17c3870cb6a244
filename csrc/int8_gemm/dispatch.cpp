#include "common/isa.h"
#include "int8_gemm/path.h"

namespace pyprod::int8_gemm {
namespace {

const Path& of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::amx:
      return kAmx;
    case Isa::avx512_vnni:
      return kAvx512Vnni;
    case Isa::avx_vnni:
      return kAvxVnni;
    case Isa::avx2:
      return kAvx2;
#endif
    default:
      return kPortable;
  }
}

}  // namespace

const Path& path() {
  static const Path& chosen = of(isa());
  return chosen;
}

const Path& path_for(int64_t rows) {
#if defined(__x86_64__)
  // One row, 768 x 768: 8.3 us a call by VNNI, 9.3 by AMX, which has tiles to configure; two rows: 10.4 and 9.4.
  static const int64_t few = isa() == Isa::amx && forced_isa() == nullptr ? 1 : 0;
  if (rows <= few) return kAvx512Vnni;
#endif
  return path();
}

}  // namespace pyprod::int8_gemm
