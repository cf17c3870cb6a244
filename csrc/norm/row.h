#pragma once

#include <cfloat>
#include <cmath>

#include "common/quantize.h"
#include "common/row_blocks.h"
#include "common/stream.h"
#include "norm/path.h"
#include "norm/sums.h"

// A row from front to back, without intrinsics: each path instantiates it under its own target with its own loops.

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

// An RMS norm's v = h * weight, made again where it is needed; without a weight, h.
template <bool kWeight>
struct Product {
  const float *h, *weight;

  PYPROD_INLINE float at(int64_t i) const { return kWeight ? h[i] * weight[i] : h[i]; }

  // The largest magnitude_bits() of elements [from, to).
  PYPROD_INLINE int32_t operator()(int64_t from, int64_t to) const {
    int32_t top = 0;
    for (int64_t i = from; i < to; ++i) top = larger(top, magnitude_bits(at(i)));
    return top;
  }
};

// A layer norm's y of elements [from, to); returns the largest magnitude_bits() of y * multiplier.
template <bool kWeight, bool kBias, bool kMultiplier>
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
      top = larger(top, magnitude_bits(kMultiplier ? value * norm.multiplier[i] : value));
    }
    return top;
  }
};

// What is done to the elements of a row, vectorized by the compiler; a path may have its own.
template <float (*kSum)(const float* x, int64_t k), float (*kSquares)(const float* x, int64_t k, float mean)>
struct Loops {
  // In the order of sums.h; squares: of (x - mean).
  static PYPROD_INLINE float sum(const float* x, int64_t k) { return kSum(x, k); }
  static PYPROD_INLINE float squares(const float* x, int64_t k, float mean) { return kSquares(x, k, mean); }

  // A layer norm's y; returns the largest magnitude_bits() of y * multiplier.
  template <class T, bool kWeight, bool kBias, bool kMultiplier>
  static PYPROD_INLINE int32_t normalize(const Norm& norm, const Row& row, const float* h, float mean, float factor,
                                         float* y) {
    return largest<T>(norm.k, row.next_x, row.next_residual,
                      Normalize<kWeight, kBias, kMultiplier>{norm, h, mean, factor, y});
  }

  // The largest magnitude_bits() of h * weight, or of h.
  template <class T, bool kWeight>
  static PYPROD_INLINE int32_t largest_of(const Norm& norm, const Row& row, const float* h) {
    return largest<T>(norm.k, row.next_x, row.next_residual, Product<kWeight>{h, norm.weight});
  }

  // Quantizes h * weight, or h; returns the scale (common/quantize.h).
  template <bool kWeight>
  static PYPROD_INLINE float quantize(const float* h, const float* weight, int64_t k, int32_t top, int8_t* q) {
    return quantize_values(Product<kWeight>{h, weight}, k, top, q);
  }
};

// Of no elements the mean is 0, as their sum.
PYPROD_INLINE float count_of(int64_t k) { return static_cast<float>(k > 0 ? k : 1); }

// Loops::normalize of the vectors that the norm has.
template <class L, class T, bool kMultiplier>
PYPROD_INLINE int32_t normalize(const Norm& norm, const Row& row, const float* h, float mean, float factor, float* y) {
  if (norm.bias != nullptr) return L::template normalize<T, true, true, kMultiplier>(norm, row, h, mean, factor, y);
  if (norm.weight != nullptr) return L::template normalize<T, true, false, kMultiplier>(norm, row, h, mean, factor, y);
  return L::template normalize<T, false, false, kMultiplier>(norm, row, h, mean, factor, y);
}

template <class L, class T, bool kMultiplier>
PYPROD_INLINE void layer_norm(const Norm& norm, const Row& row, const float* h, float* y, float* staged) {
  const int64_t k = norm.k;
  const float count = count_of(k), mean = L::sum(h, k) / count;
  const float factor = 1.0f / std::sqrt(L::squares(h, k, mean) / count + norm.eps);
  const int32_t top = normalize<L, T, kMultiplier>(norm, row, h, mean, factor, y);
  if (row.normalized != nullptr) write<T>(y, k, norm.stream, staged, row.normalized);
  if (row.scale != nullptr) *row.scale = L::template quantize<kMultiplier>(y, norm.multiplier, k, top, row.q);
}

template <class L, class T, bool kWeight>
PYPROD_INLINE void rms_norm(const Norm& norm, const Row& row, const float* h, float* y, float* staged) {
  const int64_t k = norm.k;
  const float factor = 1.0f / std::sqrt(L::squares(h, k, 0.0f) / count_of(k) + norm.eps);
  if (row.normalized != nullptr) {
    const Product<kWeight> v = {h, norm.weight};
    for (int64_t i = 0; i < k; ++i) y[i] = v.at(i) * factor;
    write<T>(y, k, norm.stream, staged, row.normalized);
  }
  if (row.scale != nullptr) {
    const int32_t top = L::template largest_of<T, kWeight>(norm, row, h);
    const float scale = L::template quantize<kWeight>(h, norm.weight, k, top, row.q) * factor;
    *row.scale = scale < FLT_MIN ? FLT_MIN : scale;
  }
}

template <class L, class T>
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
  if (norm.center && norm.multiplier != nullptr) {
    layer_norm<L, T, true>(norm, row, h, y, staged);
  } else if (norm.center) {
    layer_norm<L, T, false>(norm, row, h, y, staged);
  } else if (norm.weight != nullptr) {
    rms_norm<L, T, true>(norm, row, h, y, staged);
  } else {
    rms_norm<L, T, false>(norm, row, h, y, staged);
  }
}

// `L`: Loops, or what stands for it.
template <class L>
PYPROD_INLINE void run(const Norm& norm, const Row& row, float* scratch) {
  switch (norm.type) {
    case Float::f32:
      return run_row<L, float>(norm, row, scratch);
    case Float::bf16:
      return run_row<L, BFloat16>(norm, row, scratch);
    case Float::f16:
      return run_row<L, Float16>(norm, row, scratch);
  }
}

}  // namespace pyprod::norm
