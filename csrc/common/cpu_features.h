#pragma once

#include <utility>
#include <vector>

namespace pyprod {

// What this CPU can execute and the kernel saves across context switches, asked once by cpuid and xgetbv.
struct CpuFeatures {
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512dq = false;
  bool avx512vl = false;
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool avx512_fp16 = false;
  bool avx_vnni = false;
  bool amx_tile = false;
  bool amx_int8 = false;
  bool amx_bf16 = false;

  std::vector<std::pair<const char*, bool>> list() const {
    return {{"avx2", avx2},
            {"fma", fma},
            {"f16c", f16c},
            {"avx512f", avx512f},
            {"avx512bw", avx512bw},
            {"avx512dq", avx512dq},
            {"avx512vl", avx512vl},
            {"avx512_vnni", avx512_vnni},
            {"avx512_bf16", avx512_bf16},
            {"avx512_fp16", avx512_fp16},
            {"avx_vnni", avx_vnni},
            {"amx_tile", amx_tile},
            {"amx_int8", amx_int8},
            {"amx_bf16", amx_bf16}};
  }
};

}  // namespace pyprod

#if defined(__x86_64__)

#include <cpuid.h>

#include <cstdint>

namespace pyprod {

// Bits of XCR0: which register files the operating system saves. Needs OSXSAVE.
inline uint64_t saved_state() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// Intel SDM volume 2A, "CPUID"; volume 1, 13.3 for XCR0.
inline CpuFeatures detect_cpu() {
  CpuFeatures has;
  uint32_t eax, ebx, ecx, edx;
  const auto bit = [](uint32_t word, int index) { return ((word >> index) & 1u) != 0; };
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !bit(ecx, 27)) return has;
  const uint64_t saved = saved_state();
  const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tile = (saved & 0x60000) == 0x60000;
  has.fma = ymm && bit(ecx, 12);
  has.f16c = ymm && bit(ecx, 29);
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return has;
  const uint32_t leaves = eax;
  has.avx2 = ymm && bit(ebx, 5);
  has.avx512f = zmm && bit(ebx, 16);
  has.avx512dq = zmm && bit(ebx, 17);
  has.avx512bw = zmm && bit(ebx, 30);
  has.avx512vl = zmm && bit(ebx, 31);
  has.avx512_vnni = zmm && bit(ecx, 11);
  has.avx512_fp16 = zmm && bit(edx, 23);
  has.amx_bf16 = tile && bit(edx, 22);
  has.amx_tile = tile && bit(edx, 24);
  has.amx_int8 = tile && bit(edx, 25);
  if (leaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) {
    has.avx_vnni = ymm && bit(eax, 4);
    has.avx512_bf16 = zmm && bit(eax, 5);
  }
  return has;
}

}  // namespace pyprod

#else

namespace pyprod {

inline CpuFeatures detect_cpu() { return {}; }

}  // namespace pyprod

#endif
