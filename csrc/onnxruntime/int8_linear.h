#pragma once

#include "onnxruntime/interface.h"

namespace pyprod::onnxruntime {

// y[..., N] = activation(quantized x[..., K] * w[N, K]^T * scales + bias), as torch.ops.pyprod.int8_linear.
//
// Inputs: x (float32), packed (int8, int8_gemm/layout.h), w_scale (float32 [N]), bias (float32 [N], optional).
// Attribute: activation, one of none, relu, gelu, gelu_tanh, silu.
const CustomOp& int8_linear(const Table* table);

}  // namespace pyprod::onnxruntime
