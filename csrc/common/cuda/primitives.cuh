#pragma once

#include <cstdint>

// Device primitives, sm_80 and newer: one function per instruction.

namespace pyprod::cuda {

// Copies 16 bytes from global to shared memory in the background; zeros instead when `valid` is false (`from` is then
// not read, but must be a pointer into the same allocation).
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool valid) {
  const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's latest groups are unfinished.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// c[16, 8] += a[16, 32] * b[32, 8], int8 to int32. With g = lane / 4, t = lane % 4 a thread holds (PTX ISA, m16n8k32):
// a: rows g, g + 8, g, g + 8 at k = 4t, 4t, 4t + 16, 4t + 16 (four k a word); b: column g at k = 4t, 4t + 16;
// c: rows g, g, g + 8, g + 8 at columns 2t, 2t + 1, 2t, 2t + 1.
__device__ __forceinline__ void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace pyprod::cuda
