#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace pyprod::probe {

// Linux gives a process the tile registers only when it asks (arch/x86/include/uapi/asm/prctl.h); the permission
// holds for all threads and stays.
inline bool tiles_permitted() {
  constexpr int kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

// Runs `body` with all eight tiles configured as 16 rows of 64 bytes.
template <class Body>
void in_tiles(Body body) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("ldtilecfg %0" ::"m"(config));
  body();
  asm volatile("tilerelease");
}

}  // namespace pyprod::probe
