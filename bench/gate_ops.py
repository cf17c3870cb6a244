"""Our INT8 kernels for ``pyprod gate``: one small and one large problem each, on tensors that the gate places.

`benchmarks` gives setup functions by name; each takes a `pyprod.gate.place.Place`, and returns the call to be timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from pyprod import kernels

Setup = Callable


def benchmarks() -> dict[str, Setup]:
    linears = [(1, 384, 1536), (32, 384, 1536), (128, 1536, 384), (1, 2048, 2048)]
    found: dict[str, Setup] = {}
    for m, k, n in linears:
        found[f"int8_linear/{m}x{k}x{n}"] = partial(linear, m, k, n)
    for m, k, n in ((16, 384, 384), (256, 768, 768)):
        found[f"int8_gemm/{m}x{k}x{n}"] = partial(gemm, m, k, n)
    return found | {
        "int4_linear/1x2048x2048": partial(int4_linear, 1, 2048, 2048),
        "int8_linear_static/64x768x768": partial(linear_static, 64, 768, 768),
        "quantize_per_token/128x768": partial(quantize, 128, 768),
        "layer_norm_quantize/128x384": partial(layer_norm, 128, 384),
        "rms_norm_quantize/1x4096": partial(rms_norm, 1, 4096),
        "gelu_quantize/128x1536": partial(gelu, 128, 1536),
        "silu_mul_quantize/32x4096": partial(silu_mul, 32, 4096),
        "int8_attention/1x12x128x32": partial(attention, 1, 12, 128, 32),
        "int8_attention/1x3x512x64": partial(attention, 1, 3, 512, 64),
        "int8_conv2d/16x28x28": partial(conv, 16, 28),
    }


def _packed(place, n, k):
    packed = kernels.pack_weight(torch.randint(-127, 128, (n, k), dtype=torch.int8))
    scale, bias = place.weight(torch.rand(n) / 1000), place.weight(torch.randn(n))
    return replace(packed, data=place.weight(packed.data)), scale, bias


def linear(m, k, n, place):
    packed, scale, bias = _packed(place, n, k)
    x = place.input(torch.randn(m, k))
    return lambda: kernels.int8_linear(x, packed, scale, bias, "gelu")


def gemm(m, k, n, place):
    packed, _, _ = _packed(place, n, k)
    a = place.input(torch.randint(-127, 128, (m, k), dtype=torch.int8))
    return lambda: kernels.int8_gemm(a, packed)


def linear_static(m, k, n, place):
    packed, scale, bias = _packed(place, n, k)
    x = place.input(torch.randint(-127, 128, (m, k), dtype=torch.int8))
    return lambda: kernels.int8_linear_static(x, 0.02, -3, packed, scale, bias, "relu", out_scale=0.05)


def int4_linear(m, k, n, place):
    packed = kernels.pack_int4_weight(kernels.quantize_int4_weight(torch.randn(n, k), 32, symmetric=False))
    packed = replace(packed, data=place.weight(packed.data))
    x = place.input(torch.randn(m, k))
    return lambda: kernels.int4_linear(x, packed)


def quantize(m, k, place):
    x = place.input(torch.randn(m, k))
    return lambda: kernels.quantize_per_token(x)


def layer_norm(m, k, place):
    x, gain, bias = place.input(torch.randn(m, k)), place.weight(torch.randn(k)), place.weight(torch.randn(k))
    return lambda: kernels.layer_norm_quantize(x, gain, bias, 1e-5)


def rms_norm(m, k, place):
    x, gain = place.input(torch.randn(m, k)), place.weight(torch.randn(k))
    return lambda: kernels.rms_norm_quantize(x, gain, 1e-5)


def gelu(m, k, place):
    x = place.input(torch.randn(m, k))
    return lambda: kernels.gelu_quantize(x)


def silu_mul(m, k, place):
    gate, up = place.input(torch.randn(m, k)), place.input(torch.randn(m, k))
    return lambda: kernels.silu_mul_quantize(gate, up)


def attention(batch, heads, length, width, place):
    q, k, v = (place.input(torch.randn(batch, heads, length, width)) for _ in range(3))
    return lambda: kernels.int8_attention(q, k, v)


def conv(channels, size, place):
    packed = kernels.pack_conv_weight(torch.randint(-127, 128, (channels, channels, 3, 3), dtype=torch.int8))
    packed = replace(packed, data=place.weight(packed.data))
    scale, bias = place.weight(torch.rand(channels) / 1000), place.weight(torch.randn(channels))
    x = place.input(torch.randint(-127, 128, (1, size, size, channels), dtype=torch.int8)).permute(0, 3, 1, 2)
    return lambda: kernels.int8_conv2d(
        x, 0.02, -3, packed, scale, bias, 3, padding=1, activation="relu", out_scale=0.05
    )
