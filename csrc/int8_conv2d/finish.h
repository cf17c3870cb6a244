#pragma once

#include "int8_conv2d/conv.h"

namespace pyprod::int8_conv2d {

// Whether finish_avx512() can take this convolution: isa() has AVX-512, and there is no activation but ReLU.
bool has_finish_avx512(const Conv& conv);

// From sums acc[rows][32], the corner (m, n) of [pixels, channels], to the output, all in registers: dequantized, plus
// an int8 or float residual, ReLU, int8 or float. The same bits as the epilogue of int8_gemm, at an eighth of its time
// for int8: that one goes through memory.
void finish_avx512(const Conv& conv, const void* residual, void* out, int64_t m, int rows, int64_t n,
                   const int32_t* acc, const int8_t* panel);

}  // namespace pyprod::int8_conv2d
