// Plain C++: runs anywhere, and is the twin that the vector paths are compared with.

#include "int8_gemm/rows.h"

namespace pyprod::int8_gemm {
namespace {

constexpr int kRows = 4;

void prepare(const int8_t* a, int64_t k, void* prepared) {
  prepare_row<int8_t, 0>(a, k, static_cast<int8_t*>(prepared));
}

void prepare_unsigned(const uint8_t* a, int64_t k, void* prepared) {
  prepare_row<int8_t, -128>(a, k, static_cast<int8_t*>(prepared));
}

RowCode prepare_quantized(const FloatRow& x, int64_t k, void* prepared) {
  return prepare_quantized_row<int8_t, 0>(x, k, static_cast<int8_t*>(prepared));
}

float quantize(const FloatRow& x, int64_t k, int8_t* q) { return quantize_floats(x, k, q).scale; }

void tile(int rows, const void* a, int64_t stride, const int8_t* panel, int64_t k, int32_t* acc) {
  std::fill(acc, acc + rows * kPanel, 0);
  for (int64_t i = 0; i < ceil_div(k, 4); ++i) {
    const int8_t* weights = panel + (1 + i) * kRowBytes;
    for (int r = 0; r < rows; ++r) {
      const int8_t* row = static_cast<const int8_t*>(a) + r * stride + 4 * i;
      for (int n = 0; n < kPanel; ++n)
        for (int j = 0; j < 4; ++j) acc[r * kPanel + n] += row[j] * weights[4 * n + j];
    }
  }
}

void finish(const Epilogue& e, int64_t m, int rows, int64_t n, int cols, const int32_t* acc, const int8_t* panel) {
  finish_tile<1>(e, m, rows, n, cols, acc, panel);
}

void block(const Block& b, const Epilogue& epilogue) { block_of_tiles(kPortable, b, epilogue); }

}  // namespace

const Path kPortable = {.tile_rows = kRows,
                        .activation_bytes = sizeof(int8_t),
                        .macs_per_nanosecond = 2,
                        .prepare = prepare,
                        .prepare_unsigned = prepare_unsigned,
                        .prepare_quantized = prepare_quantized,
                        .quantize = quantize,
                        .tile = tile,
                        .finish = finish,
                        .block = block};

}  // namespace pyprod::int8_gemm
