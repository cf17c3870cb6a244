// Peak rates. The loops are assembler: a compiler would hoist, merge or spill what has no use. A loop keeps more
// independent accumulators than latency times ports of any CPU so far (5 cycles x 2 for vpdpbusd), so that only the
// ports limit it. Operands are noise, not zeros: zeros draw less power and may clock higher.

#include "probe/arithmetic.h"

#include "common/cpu_features.h"
#include "probe/tiles.h"

namespace pyprod::probe {
namespace {

#if defined(__x86_64__)

#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f")))

#define CLOBBER_16                                                                                                    \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
      "xmm14", "xmm15"
#define CLOBBER_32                                                                                               \
  CLOBBER_16, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", \
      "xmm27", "xmm28", "xmm29", "xmm30", "xmm31"

// 64 bytes of noise of both signs; or, with a mask for each 16 bits, floats (and bfloat16) of +-0.5 to +-1: nothing
// that grows out of range, and no subnormal number, which would cost a hundred cycles each.
template <uint16_t kKeep, uint16_t kSet>
struct alignas(64) Noise {
  uint16_t words[32];
  constexpr Noise() : words() {
    uint32_t state = 12345;
    for (uint16_t& word : words) {
      state = state * 1664525 + 1013904223;
      word = static_cast<uint16_t>(((state >> 16) & kKeep) | kSet);
    }
  }
};
constexpr Noise<0xffff, 0> kBytes;
constexpr Noise<0x807f, 0x3f00> kFloats;

// `before` zeroes the accumulators and fills the operands from `data`, then `body` runs `passes` times.
#define LOOP(data, before, body, clobber)                               \
  asm volatile(before "1:\n" body "dec %[passes]\n jnz 1b\n vzeroupper" \
               : [passes] "+r"(passes)                                  \
               : [noise] "r"(&data), [stride] "r"(int64_t{0})           \
               : clobber, "cc", "memory")

#define EACH_24 ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23\n"
#define EACH_12 ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"
#define ZMM_SETUP                                 \
  EACH_24                                         \
  "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n .endr\n" \
  "vmovdqa64 (%[noise]), %%zmm30\n vmovdqa64 (%[noise]), %%zmm31\n"
#define YMM_SETUP                                \
  EACH_12                                        \
  "vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n" \
  "vmovdqa (%[noise]), %%ymm14\n vmovdqa 32(%[noise]), %%ymm15\n"

#define ZMM_LOOP(data, instruction) \
  LOOP(data, ZMM_SETUP, EACH_24 instruction " %%zmm30, %%zmm31, %%zmm\\r\n .endr\n", CLOBBER_32)
#define YMM_LOOP(data, instruction) \
  LOOP(data, YMM_SETUP, EACH_12 instruction " %%ymm14, %%ymm15, %%ymm\\r\n .endr\n", CLOBBER_16)

AVX512 void vpdpbusd_zmm(int64_t passes) { ZMM_LOOP(kBytes, "vpdpbusd"); }
AVX512 void vdpbf16ps_zmm(int64_t passes) { ZMM_LOOP(kFloats, "vdpbf16ps"); }
AVX512 void fma_zmm(int64_t passes) { ZMM_LOOP(kFloats, "vfmadd231ps"); }
AVX2 void vpdpbusd_ymm(int64_t passes) { YMM_LOOP(kBytes, "%{evex%} vpdpbusd"); }
AVX2 void vpdpbusd_vex(int64_t passes) { YMM_LOOP(kBytes, "%{vex%} vpdpbusd"); }
AVX2 void fma_ymm(int64_t passes) { YMM_LOOP(kFloats, "vfmadd231ps"); }

// What exact int8 costs without VNNI once both sides are int16: multiply pairs, then add. vpmaddwd itself does not
// accumulate; the product goes through a register of its own.
AVX2 void vpmaddwd_ymm(int64_t passes) {
  LOOP(kBytes, YMM_SETUP, EACH_12 "vpmaddwd %%ymm14, %%ymm15, %%ymm13\n vpaddd %%ymm13, %%ymm\\r, %%ymm\\r\n .endr\n",
       CLOBBER_16);
}

// Four accumulators of 16 x 16: a tile product takes 16 cycles on the one port, its result 52.
#define TILE_LOOP(data, instruction)                                                               \
  LOOP(data,                                                                                       \
       ".irp r, 0, 1, 2, 3\n tilezero %%tmm\\r\n .endr\n"                                          \
       ".irp r, 4, 5, 6, 7\n tileloadd (%[noise], %[stride]), %%tmm\\r\n .endr\n",                 \
       instruction " %%tmm6, %%tmm4, %%tmm0\n" instruction " %%tmm7, %%tmm4, %%tmm1\n" instruction \
                   " %%tmm6, %%tmm5, %%tmm2\n" instruction " %%tmm7, %%tmm5, %%tmm3\n",            \
       CLOBBER_16)

void tdpbssd(int64_t passes) {
  in_tiles([&] { TILE_LOOP(kBytes, "tdpbssd"); });
}
void tdpbf16ps(int64_t passes) {
  in_tiles([&] { TILE_LOOP(kFloats, "tdpbf16ps"); });
}

// 64 additions, each waiting for the last: one a cycle. Of registers: recent CPUs add constants for nothing.
void scalar_add(int64_t passes) {
  int64_t sum = 0, one = 1;
  asm volatile("1: .rept 64\n add %[one], %[sum]\n .endr\n dec %[passes]\n jnz 1b"
               : [passes] "+r"(passes), [sum] "+r"(sum)
               : [one] "r"(one)
               : "cc");
}

bool always() { return true; }
bool avx2() { return detect_cpu().avx2; }
bool fma() { return detect_cpu().avx2 && detect_cpu().fma; }
bool avx_vnni() { return detect_cpu().avx2 && detect_cpu().avx_vnni; }
bool avx512() { return detect_cpu().avx512f; }
bool vnni_512() { return detect_cpu().avx512f && detect_cpu().avx512_vnni; }
bool vnni_256() { return detect_cpu().avx512vl && detect_cpu().avx512_vnni; }
bool bf16_512() { return detect_cpu().avx512f && detect_cpu().avx512_bf16; }
bool amx_int8() { return detect_cpu().amx_int8 && tiles_permitted(); }
bool amx_bf16() { return detect_cpu().amx_bf16 && tiles_permitted(); }

constexpr int64_t kTileOps = 4 * 2 * 16 * 16;  // times the depth: 64 bytes or 32 bfloat16

constexpr Arithmetic kAll[] = {
    {"clock", always, 64, scalar_add},
    {"int8.amx", amx_int8, kTileOps * 64, tdpbssd},
    {"int8.avx512_vnni", vnni_512, 24 * 128, vpdpbusd_zmm},
    {"int8.avx512_vnni_256", vnni_256, 12 * 64, vpdpbusd_ymm},
    {"int8.avx_vnni", avx_vnni, 12 * 64, vpdpbusd_vex},
    {"int8.avx2", avx2, 12 * 32, vpmaddwd_ymm},
    {"bf16.amx", amx_bf16, kTileOps * 32, tdpbf16ps},
    {"bf16.avx512", bf16_512, 24 * 64, vdpbf16ps_zmm},
    {"fp32.avx512", avx512, 24 * 32, fma_zmm},
    {"fp32.avx2", fma, 12 * 16, fma_ymm},
};

#else

constexpr Arithmetic kAll[] = {{nullptr, [] { return false; }, 0, nullptr}};

#endif

}  // namespace

std::vector<Arithmetic> arithmetics() {
  std::vector<Arithmetic> found;
  for (const Arithmetic& each : kAll)
    if (each.supported()) found.push_back(each);
  return found;
}

}  // namespace pyprod::probe
