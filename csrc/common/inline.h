#pragma once

// For generic code that each instruction set compiles again: it has no target of its own, so it is inlined into a
// caller of any target and vectorized with that caller's instructions. (Lambdas don't take part: they have no target.)
// The same source is device code under nvcc.
#if defined(__CUDACC__)
#define PYPROD_INLINE __host__ __device__ __forceinline__
#else
#define PYPROD_INLINE inline __attribute__((always_inline))
#endif
