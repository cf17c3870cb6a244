#pragma once

#include "activation_quantize/path.h"
#include "common/activation.h"
#include "common/quantize.h"
#include "common/row_blocks.h"

// A row from front to back, without intrinsics: each path instantiates it under its own target and the compiler
// vectorizes it. Nothing is summed, so every path gives the same bits.

namespace pyprod::activation_quantize {

// y of elements [from, to); returns their largest magnitude_bits().
template <class T, Function F>
struct Activate {
  const T *x, *up;
  float* y;

  PYPROD_INLINE float at(int64_t i) const {
    if constexpr (F == Function::silu_mul) return silu(to_float(x[i])) * to_float(up[i]);
    if constexpr (F == Function::gelu) return gelu(to_float(x[i]));
    return gelu_tanh(to_float(x[i]));
  }

  PYPROD_INLINE int32_t operator()(int64_t from, int64_t to) const {
    int32_t top = 0;
    for (int64_t i = from; i < to; ++i) {
      y[i] = at(i);
      top = larger(top, magnitude_bits(y[i]));
    }
    return top;
  }
};

template <class T, Function F>
PYPROD_INLINE void run_row(const Row& row, float* y) {
  const Activate<T, F> activate = {static_cast<const T*>(row.x), static_cast<const T*>(row.up), y};
  const int32_t top = largest<T>(row.k, row.next_x, row.next_up, activate);
  *row.scale = quantize_values(Values<float>{y}, row.k, top, row.q);
}

template <class T>
PYPROD_INLINE void run_row(const Row& row, float* y) {
  switch (row.function) {
    case Function::silu_mul:
      return run_row<T, Function::silu_mul>(row, y);
    case Function::gelu:
      return run_row<T, Function::gelu>(row, y);
    case Function::gelu_tanh:
      return run_row<T, Function::gelu_tanh>(row, y);
  }
}

PYPROD_INLINE void run(const Row& row, float* y) {
  switch (row.type) {
    case Float::f32:
      return run_row<float>(row, y);
    case Float::bf16:
      return run_row<BFloat16>(row, y);
    case Float::f16:
      return run_row<Float16>(row, y);
  }
}

}  // namespace pyprod::activation_quantize
