#pragma once

#include <cfloat>
#include <cmath>

#include "common/quantize.h"
#include "common/row_blocks.h"
#include "common/stream.h"
#include "norm/path.h"
#include "norm/sums.h"

// A row from front to back, without intrinsics: each path instantiates it under its own target with its own sums.

namespace pyprod::norm {

template <class T>
PYPROD_INLINE void load(const T* x, int64_t k, float* h) {
  for (int64_t i = 0; i < k; ++i) h[i] = to_float(x[i]);
}

template <class T>
PYPROD_INLINE void add(const T* x, const T* residual, int64_t k, float* h) {
  for (int64_t i = 0; i < k; ++i) {
    T rounded;
    from_float(to_float(x[i]) + to_float(residual[i]), rounded);
    h[i] = to_float(rounded);
  }
}

// Where to compute a row that is also a result: in its own place if nothing has to be converted or streamed.
template <class T>
PYPROD_INLINE float* place(void* result, bool stream, float* otherwise) {
  const bool direct = sizeof(T) == sizeof(float) && result != nullptr && !stream;
  return direct ? static_cast<float*>(result) : otherwise;
}

// Writes a row of floats that is not in its place yet as T, by way of `staged` unless it is of that type already.
template <class T>
PYPROD_INLINE void write(const float* row, int64_t k, bool stream, float* staged, void* to) {
  const void* from = row;
  if (from == to) return;
  if constexpr (sizeof(T) != sizeof(float)) {
    T* out = reinterpret_cast<T*>(staged);
    for (int64_t i = 0; i < k; ++i) from_float(row[i], out[i]);
    from = out;
  }
  copy_out(to, from, k * static_cast<int64_t>(sizeof(T)), stream);
}

// Of no elements the mean is 0, as their sum.
PYPROD_INLINE float count_of(int64_t k) { return static_cast<float>(k > 0 ? k : 1); }

// A layer norm's y of elements [from, to); returns their largest magnitude_bits().
template <bool kWeight, bool kBias>
struct Normalize {
  const Norm& norm;
  const float* h;
  float mean, factor;
  float* y;

  PYPROD_INLINE int32_t operator()(int64_t from, int64_t to) const {
    int32_t top = 0;
    for (int64_t i = from; i < to; ++i) {
      float value = (h[i] - mean) * factor;
      if (kWeight) value = value * norm.weight[i];
      if (kBias) value = value + norm.bias[i];
      y[i] = value;
      top = larger(top, magnitude_bits(value));
    }
    return top;
  }
};

template <class T, auto kSum, auto kSquares>
PYPROD_INLINE void layer_norm(const Norm& norm, const Row& row, const float* h, float* y, float* staged) {
  const int64_t k = norm.k;
  const float count = count_of(k), mean = kSum(h, k) / count;
  const float factor = 1.0f / std::sqrt(kSquares(h, k, mean) / count + norm.eps);
  int32_t top;
  if (norm.bias != nullptr) {
    top = largest<T>(k, row.next_x, row.next_residual, Normalize<true, true>{norm, h, mean, factor, y});
  } else if (norm.weight != nullptr) {
    top = largest<T>(k, row.next_x, row.next_residual, Normalize<true, false>{norm, h, mean, factor, y});
  } else {
    top = largest<T>(k, row.next_x, row.next_residual, Normalize<false, false>{norm, h, mean, factor, y});
  }
  if (row.normalized != nullptr) write<T>(y, k, norm.stream, staged, row.normalized);
  if (row.scale != nullptr) *row.scale = quantize_values(Values<float>{y}, k, top, row.q);
}

// An RMS norm's v = h * weight, made again where it is needed.
template <bool kWeight>
struct Product {
  const float *h, *weight;

  PYPROD_INLINE float at(int64_t i) const { return kWeight ? h[i] * weight[i] : h[i]; }

  PYPROD_INLINE int32_t operator()(int64_t from, int64_t to) const {
    int32_t top = 0;
    for (int64_t i = from; i < to; ++i) top = larger(top, magnitude_bits(at(i)));
    return top;
  }
};

template <class T, auto kSquares, bool kWeight>
PYPROD_INLINE void rms_norm(const Norm& norm, const Row& row, const float* h, float* y, float* staged) {
  const int64_t k = norm.k;
  const float factor = 1.0f / std::sqrt(kSquares(h, k, 0.0f) / count_of(k) + norm.eps);
  const Product<kWeight> v = {h, norm.weight};
  if (row.normalized != nullptr) {
    for (int64_t i = 0; i < k; ++i) y[i] = v.at(i) * factor;
    write<T>(y, k, norm.stream, staged, row.normalized);
  }
  if (row.scale != nullptr) {
    const int32_t top = largest<T>(k, row.next_x, row.next_residual, v);
    const float scale = quantize_values(v, k, top, row.q) * factor;
    *row.scale = scale < FLT_MIN ? FLT_MIN : scale;
  }
}

template <class T, auto kSum, auto kSquares>
PYPROD_INLINE void run_row(const Norm& norm, const Row& row, float* scratch) {
  const int64_t k = norm.k;
  const T* x = static_cast<const T*>(row.x);
  float* y = place<T>(row.normalized, norm.stream, scratch + k);
  float* staged = scratch + 2 * k;
  const float* h = scratch;
  if (row.residual != nullptr) {
    float* sum = place<T>(row.sum, norm.stream, scratch);
    add(x, static_cast<const T*>(row.residual), k, sum);
    h = sum;
    if (row.sum != nullptr) write<T>(h, k, norm.stream, staged, row.sum);
  } else if constexpr (sizeof(T) == sizeof(float)) {
    h = x;
  } else {
    load(x, k, scratch);
  }
  if (norm.center) {
    layer_norm<T, kSum, kSquares>(norm, row, h, y, staged);
  } else if (norm.weight != nullptr) {
    rms_norm<T, kSquares, true>(norm, row, h, y, staged);
  } else {
    rms_norm<T, kSquares, false>(norm, row, h, y, staged);
  }
}

template <auto kSum, auto kSquares>
PYPROD_INLINE void run(const Norm& norm, const Row& row, float* scratch) {
  switch (norm.type) {
    case Float::f32:
      return run_row<float, kSum, kSquares>(norm, row, scratch);
    case Float::bf16:
      return run_row<BFloat16, kSum, kSquares>(norm, row, scratch);
    case Float::f16:
      return run_row<Float16, kSum, kSquares>(norm, row, scratch);
  }
}

}  // namespace pyprod::norm
