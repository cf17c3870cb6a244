"""A call of each op on random operands, for tests that hold every op to the same: a function of the number of rows.

A function's name is its op's. It returns what to call with some of the rows: ``call(x)``, and those rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyprod import kernels

Call = tuple[Callable[[Tensor], Tensor | tuple[Tensor, ...]], Tensor]

#: Rows of one token, of fewer and of more than any register tile, and enough that threads share them.
ROWS = (1, 5, 40, 300)
N, K = 200, 500  # neither fills a panel, a word or a cache line evenly


def quantize_per_token(rows: int) -> Call:
    return kernels.quantize_per_token, torch.randn(rows, K)


def int8_gemm(rows: int) -> Call:
    packed = kernels.pack_weight(torch.randint(-128, 128, (N, K), dtype=torch.int8))
    return lambda a: kernels.int8_gemm(a, packed), torch.randint(-128, 128, (rows, K), dtype=torch.int8)


def int8_linear(rows: int) -> Call:
    packed, scale, bias = weight()
    return lambda x: kernels.int8_linear(x, packed, scale, bias, "gelu"), torch.randn(rows, K)


def int8_linear_prequantized(rows: int) -> Call:
    packed, scale, bias = weight()

    def call(x: Tensor) -> Tensor:
        return kernels.int8_linear_prequantized(*kernels.quantize_per_token(x), packed, scale, bias)

    return call, torch.randn(rows, K)


def int8_linear_static(rows: int) -> Call:
    packed, scale, bias = weight()
    x = torch.randint(-128, 128, (rows, K), dtype=torch.int8)
    return lambda x: kernels.int8_linear_static(x, 0.02, -3, packed, scale, bias, "relu", out_scale=0.05), x


def int4_linear(rows: int) -> Call:
    packed = kernels.pack_int4_weight(kernels.quantize_int4_weight(torch.randn(N, 480), 32, symmetric=False))
    return lambda x: kernels.int4_linear(x, packed), torch.randn(rows, 480)


def layer_norm_quantize(rows: int) -> Call:
    gain, bias = torch.randn(K), torch.randn(K)
    return lambda x: kernels.layer_norm_quantize(x, gain, bias, 1e-5), torch.randn(rows, K)


def add_rms_norm_quantize(rows: int) -> Call:
    gain = torch.randn(K)
    return lambda x: kernels.add_rms_norm_quantize(*x.chunk(2, -1), gain, 1e-5), torch.randn(rows, 2 * K)


def gelu_quantize(rows: int) -> Call:
    return kernels.gelu_quantize, torch.randn(rows, K)


def silu_mul_quantize(rows: int) -> Call:
    return lambda x: kernels.silu_mul_quantize(*x.chunk(2, -1)), torch.randn(rows, 2 * K)


def int8_attention(rows: int) -> Call:
    return lambda x: kernels.int8_attention(*x.unbind(1), causal=True), torch.randn(rows, 3, 2, 19, 40)


def int8_attention_packed(rows: int) -> Call:
    return lambda x: kernels.int8_attention_packed(x, 2, 1), torch.randn(rows, 7, 4 * 40)


def int8_self_attention(rows: int) -> Call:
    packed = kernels.pack_weight(torch.randint(-128, 128, (4 * 40, K), dtype=torch.int8))
    scale, bias = torch.rand(4 * 40) / 100, torch.randn(4 * 40)

    def call(x: Tensor) -> Tensor:
        return kernels.int8_self_attention(*kernels.quantize_per_token(x), packed, scale, bias, 2, 1)

    return call, torch.randn(rows, 7, K)


def int8_conv2d(rows: int) -> Call:
    packed = kernels.pack_conv_weight(torch.randint(-128, 128, (20, 5, 3, 3), dtype=torch.int8))
    scale, bias = torch.rand(20) / 100, torch.randn(20)
    x = torch.randint(-128, 128, (rows, 5, 9, 6), dtype=torch.int8).to(memory_format=torch.channels_last)

    def call(x: Tensor) -> Tensor:
        return kernels.int8_conv2d(x, 0.02, -3, packed, scale, bias, 3, padding=1, activation="relu", out_scale=0.05)

    return call, x


def int8_cnn(rows: int) -> Call:
    values = [kernels.CnnValue((9, 6, 3), 0.02, 4), kernels.CnnValue((9, 6, 20)), kernels.CnnValue((1, 1, 20))]
    w_q = torch.randint(-128, 128, (20, 3, 3, 3), dtype=torch.int8)
    conv = kernels.CnnStep(
        "conv", 0, 1, kernel=3, padding=1, relu=True, w_q=w_q, w_scale=torch.rand(20) / 300, bias=torch.randn(20)
    )
    plan = kernels.pack_cnn(values, [conv, kernels.CnnStep("mean", 1, 2)])
    return lambda x: kernels.int8_cnn(x, plan, 20), torch.randn(rows, 3, 9, 6)


def weight() -> tuple[kernels.PackedWeight, Tensor, Tensor]:
    """A packed weight [N, K], a scale and a bias per output."""
    packed = kernels.pack_weight(torch.randint(-128, 128, (N, K), dtype=torch.int8))
    return packed, torch.rand(N) / 100, torch.randn(N)


CALLS = {name: make for name, make in globals().items() if name in kernels.__all__}
