#pragma once

// For generic code that each instruction set compiles again: it has no target of its own, so it is inlined into a
// caller of any target and vectorized with that caller's instructions. (Lambdas don't take part: they have no target.)
#define PYPROD_INLINE inline __attribute__((always_inline))
