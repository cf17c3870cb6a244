#pragma once

#include "activation_quantize/path.h"
#include "common/activation.h"
#include "common/quantize.h"
#include "common/row_blocks.h"

// A row from front to back, without intrinsics: each path instantiates it under its own target and the compiler
// vectorizes it. Nothing is summed, so every path gives the same bits.

namespace pyprod::activation_quantize {

// y of elements [from, to); returns their largest magnitude_bits().
template <class T, Function F, int kLanes>
struct Activate {
  const T *x, *up;
  float* y;

  PYPROD_INLINE int32_t operator()(int64_t from, int64_t to) const {
    if constexpr (F == Function::gelu) {  // its vectors are made by hand
      for (int64_t i = from; i < to; ++i) y[i] = to_float(x[i]);
      activate_all<Activation::gelu, kLanes>(y + from, to - from);
    }
    int32_t top = 0;
    for (int64_t i = from; i < to; ++i) {
      if constexpr (F == Function::silu_mul) y[i] = silu(to_float(x[i])) * to_float(up[i]);
      if constexpr (F == Function::gelu_tanh) y[i] = gelu_tanh(to_float(x[i]));
      top = larger(top, magnitude_bits(y[i]));
    }
    return top;
  }
};

template <class T, Function F, int kLanes>
PYPROD_INLINE void run_row(const Row& row, float* y) {
  const Activate<T, F, kLanes> activate = {static_cast<const T*>(row.x), static_cast<const T*>(row.up), y};
  const int32_t top = largest<T>(row.k, row.next_x, row.next_up, activate);
  *row.scale = quantize_values(Values<float>{y}, row.k, top, row.q);
}

template <class T, int kLanes>
PYPROD_INLINE void run_row(const Row& row, float* y) {
  switch (row.function) {
    case Function::silu_mul:
      return run_row<T, Function::silu_mul, kLanes>(row, y);
    case Function::gelu:
      return run_row<T, Function::gelu, kLanes>(row, y);
    case Function::gelu_tanh:
      return run_row<T, Function::gelu_tanh, kLanes>(row, y);
  }
}

// `kLanes`: floats of a vector.
template <int kLanes>
PYPROD_INLINE void run(const Row& row, float* y) {
  switch (row.type) {
    case Float::f32:
      return run_row<float, kLanes>(row, y);
    case Float::bf16:
      return run_row<BFloat16, kLanes>(row, y);
    case Float::f16:
      return run_row<Float16, kLanes>(row, y);
  }
}

}  // namespace pyprod::activation_quantize
