#include "int8_conv2d/bytes.h"

namespace pyprod::int8_conv2d {

PYPROD_CLONES void quantize_run(const float* x, int64_t n, Quantization to, int8_t* q) {
  const float inverse = 1.0f / to.scale;
  for (int64_t i = 0; i < n; ++i) q[i] = quantize_one(x[i], inverse, to.zero_point);
}

PYPROD_CLONES void dequantize_run(const int8_t* q, int64_t n, Quantization from, float* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(q[i] - from.zero_point) * from.scale;
}

namespace {

PYPROD_CLONES bool all_finite(const float* x, int64_t n) {
  int32_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t bits = magnitude_bits(x[i]);
    top = bits > top ? bits : top;
  }
  return is_finite_magnitude(top);
}

}  // namespace

bool quantize_strided(const float* x, int64_t n, Quantization to, int8_t* q, int64_t stride) {
  constexpr int64_t kChunk = 256;
  bool finite = true;
  for (int64_t i = 0; i < n; i += kChunk) {
    const int64_t count = n - i < kChunk ? n - i : kChunk;
    finite &= all_finite(x + i, count);
    if (stride == 1) {
      quantize_run(x + i, count, to, q + i);
      continue;
    }
    int8_t row[kChunk];
    quantize_run(x + i, count, to, row);
    for (int64_t j = 0; j < count; ++j) q[(i + j) * stride] = row[j];
  }
  return finite;
}

}  // namespace pyprod::int8_conv2d
