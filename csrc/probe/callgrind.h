#pragma once

#include <cstdint>

// Requests to callgrind, the instruction counter of valgrind, which knows them by a sequence of rotations that no
// program has a use for and that any processor runs as nothing (valgrind.h, callgrind.h). Ours, so that valgrind's
// headers are not needed to build.

namespace pyprod::probe {

inline uint64_t ask_valgrind([[maybe_unused]] uint64_t request, [[maybe_unused]] const void* argument = nullptr) {
  uint64_t result = 0;
#if defined(__x86_64__)
  const volatile uint64_t arguments[6] = {request, reinterpret_cast<uint64_t>(argument), 0, 0, 0, 0};
  asm volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi\n xchgq %%rbx, %%rbx"
               : "=d"(result)
               : "a"(&arguments), "0"(result)
               : "cc", "memory");
#endif
  return result;
}

inline constexpr uint64_t kCallgrind = uint64_t{'C'} << 24 | uint64_t{'T'} << 16;

inline bool under_valgrind() { return ask_valgrind(0x1001) != 0; }
inline void start_counting() { ask_valgrind(kCallgrind + 4); }

// Writes what was counted to a file of its own that says `name`.
inline void stop_counting(const char* name) {
  ask_valgrind(kCallgrind + 3, name);
  ask_valgrind(kCallgrind + 5);
}

}  // namespace pyprod::probe
