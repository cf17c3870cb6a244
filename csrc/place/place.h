#pragma once

#include <cstddef>
#include <cstdint>

// What `pyprod.gate` calls, by ctypes, in processes that were started with this library preloaded.
//
// Two processes that are compared share `memory`; one runs at a time. Between place_enter() and place_leave() every
// aligned allocation (posix_memalign, aligned_alloc: all of torch's tensors, all scratch of our kernels) comes from it,
// at addresses that `seed` draws: both processes then use the same physical pages in the same way. What is still
// allocated at place_leave() is copied aside, and back at place_enter(), because the other process writes there.

#define PYPROD_EXPORT extern "C" __attribute__((visibility("default")))

// Once, before anything is entered. `memory`: `bytes` shared bytes, 64-byte aligned.
PYPROD_EXPORT void place_memory(char* memory, size_t bytes);

// Begin anew, behind what is still allocated, with addresses drawn from `seed`.
PYPROD_EXPORT void place_reset(uint64_t seed);

PYPROD_EXPORT void place_enter();

// Returns the bytes copied aside.
PYPROD_EXPORT size_t place_leave();

// Bytes from the start of the memory to the end of the last block.
PYPROD_EXPORT size_t place_extent();
