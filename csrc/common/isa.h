#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "common/amx.h"
#include "common/cpu_features.h"

// Which instruction set the CPU kernels of this process use: one choice for every room.

namespace pyprod {

// Each includes those before it that a room may fall back to. Rooms that gain nothing from one take the next lower.
enum class Isa : int { portable, avx2, avx_vnni, avx512_vnni, amx };

inline constexpr const char* kIsaNames[] = {"portable", "avx2", "avx_vnni", "avx512_vnni", "amx"};

inline bool supports(const CpuFeatures& has, Isa isa) {
  const bool avx512 = has.avx512f && has.avx512bw && has.avx512dq && has.avx512vl && has.avx512_vnni;
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return has.avx2;
    case Isa::avx_vnni:
      return has.avx2 && has.avx_vnni;
    case Isa::avx512_vnni:
      return has.avx2 && avx512;
    case Isa::amx:
      return has.avx2 && avx512 && has.amx_tile && has.amx_int8 && tiles_permitted();
  }
  return false;
}

// What PYPROD_ISA names, or null.
inline const char* forced_isa() {
  const char* name = std::getenv("PYPROD_ISA");
  return name != nullptr && *name != '\0' ? name : nullptr;
}

inline Isa choose_isa() {
  const CpuFeatures has = detect_cpu();
  const char* forced = forced_isa();
  const bool any = forced == nullptr;
  for (int i = static_cast<int>(Isa::amx); i >= 0; --i) {
    const bool usable = supports(has, static_cast<Isa>(i));
    if (any && usable) return static_cast<Isa>(i);
    if (any || std::string(forced) != kIsaNames[i]) continue;
    if (usable) return static_cast<Isa>(i);
    throw std::runtime_error("PYPROD_ISA=" + std::string(forced) + ": this CPU lacks these instructions");
  }
  std::string names;
  for (const char* name : kIsaNames) names += (names.empty() ? "" : ", ") + std::string(name);
  throw std::runtime_error("PYPROD_ISA=" + std::string(forced) + " is not one of " + names);
}

// The best of this CPU, or the one that the environment variable PYPROD_ISA names. Chosen once per process.
// Throws std::runtime_error when PYPROD_ISA names none, or one that this CPU can't run.
inline Isa isa() {
  static const Isa chosen = choose_isa();
  return chosen;
}

}  // namespace pyprod
