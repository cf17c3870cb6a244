#pragma once

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>

// AMX tiles: eight registers of up to 16 rows of 64 bytes. The instructions as they are; GCC 12's own macros don't tell
// the compiler that they read memory.

namespace pyprod {

#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t::)
#define TILE_LOAD(t, base, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
// With a hint that the data won't be needed in L1: weights that stream through must not evict the activations.
#define TILE_LOAD_ONCE(t, base, stride) \
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #t::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
#define TILE_STORE(t, base, stride) \
  __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(base), "r"(static_cast<int64_t>(stride)) : "memory")
#define TILE_MULTIPLY(sums, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #sums::)
#define TILE_CONFIGURE(config) __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory")
#define TILE_RELEASE() __asm__ volatile("tilerelease" ::)

// What ldtilecfg reads (Intel SDM volume 1, 18.2.2): bytes a row and rows of each tile.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Linux gives the tile registers (8 KB of state a thread) only to processes that ask: arch/x86/xstate.rst. The
// permission holds for all threads and stays.
inline bool tiles_permitted() {
#if defined(__x86_64__)
  constexpr int64_t kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace pyprod
