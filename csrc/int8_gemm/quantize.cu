// int8 activations in the form that the GEMM reads: quantized per token, or integers as they are, in padded rows.

#include "common/cuda/row.cuh"
#include "int8_gemm/cuda.h"

namespace pyprod::int8_gemm {
namespace {

struct Quantize {
  const void* x;
  int64_t x_stride, k;
  const float* multiplier;
  int8_t* q;
  int64_t q_stride;
  float* scale;
  int32_t* zero_point;  // or null
};

template <class From, bool kWhole, bool kAsymmetric>
__global__ void __launch_bounds__(cuda::kRowThreads, cuda::kRowBlocks)
    quantize_kernel(const __grid_constant__ Quantize call) {
  const int64_t row = cuda::block_x();
  const cuda::RowOf<From, kWhole> x = {static_cast<const From*>(call.x) + row * call.x_stride, call.k};
  const cuda::QuantizedRow<kWhole> to = {call.q + row * call.q_stride, call.k, call.q_stride};
  const cuda::RowOf<float, kWhole> multiplier = {call.multiplier, call.k};
  const auto values = [&](int64_t i) { return cuda::multiplied(multiplier, i, x.eight(i)); };
  int32_t* zero_point = kAsymmetric ? call.zero_point + row : nullptr;
  cuda::quantize_row<kAsymmetric>(values, to, call.scale + row, zero_point);
}

template <class From, bool kAsymmetric>
const char* launch(const Quantize& call, int64_t m, void* stream) {
  const bool whole = call.q_stride == call.k && call.k % 8 == 0 &&
                     cuda::rows_aligned(static_cast<const From*>(call.x), call.x_stride) &&
                     cuda::rows_aligned(call.q, call.q_stride) && cuda::rows_aligned(call.multiplier, 0);
  return cuda::launch(whole ? quantize_kernel<From, true, kAsymmetric> : quantize_kernel<From, false, kAsymmetric>,
                      {static_cast<int>(m), 1, cuda::row_threads(call.k), cuda::kRowShared}, stream, call);
}

template <class From>
const char* launch(const Quantize& call, int64_t m, void* stream) {
  return call.zero_point != nullptr ? launch<From, true>(call, m, stream) : launch<From, false>(call, m, stream);
}

struct Pad {
  const uint8_t* x;
  int64_t x_stride, k;
  int8_t* q;
  int64_t q_stride;
  uint8_t flip;  // 0x80 lowers an unsigned byte by 128
};

__global__ void __launch_bounds__(cuda::kRowThreads, cuda::kRowBlocks) pad_kernel(const __grid_constant__ Pad call) {
  const int64_t row = cuda::block_x();
  const uint8_t* from = call.x + row * call.x_stride;
  int8_t* to = call.q + row * call.q_stride;
  for (int64_t i = cuda::thread(); i < call.q_stride; i += cuda::threads())
    to[i] = i < call.k ? static_cast<int8_t>(from[i] ^ call.flip) : int8_t{0};
}

}  // namespace

const char* launch_pad(bool is_unsigned, const void* x, int64_t x_stride, int64_t m, int64_t k, int8_t* q,
                       int64_t q_stride, void* stream) {
  if (m == 0 || q_stride == 0) return nullptr;
  const Pad call = {
      static_cast<const uint8_t*>(x), x_stride, k, q, q_stride, static_cast<uint8_t>(is_unsigned ? 0x80 : 0)};
  return cuda::launch(pad_kernel, {static_cast<int>(m), 1, cuda::row_threads(k), 0}, stream, call);
}

const char* launch_quantize(const FloatRow& x, int64_t x_stride, int64_t m, int64_t k, int8_t* q, int64_t q_stride,
                            float* scale, int32_t* zero_point, void* stream) {
  if (m == 0) return nullptr;
  const Quantize call = {x.x, x_stride, k, x.multiplier, q, q_stride, scale, zero_point};
  if (x.type == Float::f32) return launch<float>(call, m, stream);
  if (x.type == Float::bf16) return launch<BFloat16>(call, m, stream);
  return launch<Float16>(call, m, stream);
}

}  // namespace pyprod::int8_gemm
