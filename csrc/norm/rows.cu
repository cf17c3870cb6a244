// Layer norm and RMS norm, the residual's sum before and the quantization after, in one pass over memory. The steps are
// those of path.h; sums over a row are taken in the order of the threads, the same each time but not that of the CPU.

#include <cfloat>
#include <cmath>

#include "common/cuda/row.cuh"
#include "norm/cuda.h"

namespace pyprod::norm {
namespace {

// x + residual, rounded to T.
template <class T, bool kWhole>
struct Hidden {
  cuda::RowOf<T, kWhole> x, residual;

  __device__ __forceinline__ cuda::Eight operator()(int64_t i) const {
    cuda::Eight h = x.eight(i);
    if (residual.values == nullptr) return h;
    const cuda::Eight other = residual.eight(i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      T rounded;
      from_float(h.of[j] + other.of[j], rounded);
      h.of[j] = to_float(rounded);
    }
    return h;
  }
};

// What a row's eights become.
template <bool kWhole>
struct Affine {
  cuda::RowOf<float, kWhole> weight, bias;
  float mean, factor;

  // A layer norm's y; an RMS norm's v, which its factor multiplies later.
  template <bool kCenter>
  __device__ __forceinline__ cuda::Eight apply(int64_t i, const cuda::Eight& h) const {
    cuda::Eight y = h, scale = {}, shift = {};
    if (weight.values != nullptr) scale = weight.eight(i);
    if (bias.values != nullptr) shift = bias.eight(i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (kCenter) y.of[j] = (y.of[j] - mean) * factor;
      if (weight.values != nullptr) y.of[j] = y.of[j] * scale.of[j];
      if (bias.values != nullptr) y.of[j] = y.of[j] + shift.of[j];
      if (!kWhole && 8 * i + j >= weight.k) y.of[j] = 0;  // what is not there must not be the largest
    }
    return y;
  }
};

template <class Row>
__device__ __forceinline__ float sum_of(const Row& row) {
  float sum = 0;
  row.each([&](int64_t, const cuda::Eight& h) {
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += h.of[j];
  });
  return cuda::block_sum(sum);
}

template <bool kWhole, class Row>
__device__ __forceinline__ float squares_of(const Row& row, int64_t k, float mean) {
  float sum = 0;
  row.each([&](int64_t i, const cuda::Eight& h) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float d = kWhole || 8 * i + j < k ? h.of[j] - mean : 0.0f;
      sum += d * d;
    }
  });
  return cuda::block_sum(sum);
}

template <class T, bool kCenter, bool kWhole>
__global__ void __launch_bounds__(cuda::kRowThreads, cuda::kRowBlocks)
    rows_kernel(const __grid_constant__ CudaRows rows) {
  const Norm& norm = rows.norm;
  const int64_t m = cuda::block_x(), k = norm.k;
  const auto row_of = [m](const void* from, int64_t stride) {
    return from == nullptr ? nullptr : reinterpret_cast<const T*>(static_cast<const char*>(from) + m * stride);
  };
  using Row = Hidden<T, kWhole>;
  const Row hidden = {{row_of(rows.x, rows.x_stride), k}, {row_of(rows.residual, rows.residual_stride), k}};
  const cuda::HeldRow<kWhole, Row> row(hidden, (k + 7) / 8);
  const float count = static_cast<float>(k > 0 ? k : 1);
  const float mean = kCenter ? sum_of(row) / count : 0.0f;
  const float factor = 1.0f / std::sqrt(squares_of<kWhole>(row, k, mean) / count + norm.eps);
  const Affine<kWhole> affine = {{norm.weight, k}, {norm.bias, k}, mean, factor};
  if (rows.sum != nullptr)
    row.each([&](int64_t i, const cuda::Eight& h) {
      cuda::write_eight<kWhole>(static_cast<T*>(rows.sum) + m * k, i, k, h);
    });
  if (rows.normalized != nullptr)
    row.each([&](int64_t i, const cuda::Eight& h) {
      cuda::Eight y = affine.template apply<kCenter>(i, h);
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (!kCenter) y.of[j] = y.of[j] * factor;
      cuda::write_eight<kWhole>(static_cast<T*>(rows.normalized) + m * k, i, k, y);
    });
  if (rows.scale == nullptr) return;
  const cuda::RowOf<float, kWhole> multiplier = {kCenter ? norm.multiplier : nullptr, k};
  const auto each = [&](const auto& visit) {
    row.each([&](int64_t i, const cuda::Eight& h) {
      visit(i, cuda::multiplied(multiplier, i, affine.template apply<kCenter>(i, h)));
    });
  };
  const cuda::QuantizedRow<kWhole> to = {rows.q + m * k, k, k};
  float scale = cuda::quantize_each(each, to).scale;
  if (!kCenter) {
    scale = scale * factor;
    scale = scale < FLT_MIN ? FLT_MIN : scale;
  }
  if (cuda::thread() == 0) rows.scale[m] = scale;
}

template <class T>
bool is_whole(const CudaRows& rows) {
  const int64_t k = rows.norm.k, size = static_cast<int64_t>(sizeof(T));
  const auto aligned = [](const void* from, int64_t stride) {
    return cuda::rows_aligned(static_cast<const T*>(from), stride);
  };
  return k % 8 == 0 && aligned(rows.x, rows.x_stride / size) && aligned(rows.residual, rows.residual_stride / size) &&
         aligned(rows.sum, k) && aligned(rows.normalized, k) && cuda::rows_aligned(rows.q, k) &&
         cuda::rows_aligned(rows.norm.weight, 0) && cuda::rows_aligned(rows.norm.bias, 0) &&
         cuda::rows_aligned(rows.norm.multiplier, 0);
}

template <class T, bool kCenter>
const char* launch_as(const CudaRows& rows, void* stream) {
  return cuda::launch(is_whole<T>(rows) ? rows_kernel<T, kCenter, true> : rows_kernel<T, kCenter, false>,
                      {static_cast<int>(rows.m), 1, cuda::row_threads(rows.norm.k), cuda::kRowShared}, stream, rows);
}

template <class T>
const char* launch_as(const CudaRows& rows, void* stream) {
  return rows.norm.center ? launch_as<T, true>(rows, stream) : launch_as<T, false>(rows, stream);
}

}  // namespace

const char* launch(const CudaRows& rows, void* stream) {
  if (rows.m == 0) return nullptr;
  switch (rows.norm.type) {
    case Float::f32:
      return launch_as<float>(rows, stream);
    case Float::bf16:
      return launch_as<BFloat16>(rows, stream);
    default:
      return launch_as<Float16>(rows, stream);
  }
}

}  // namespace pyprod::norm
