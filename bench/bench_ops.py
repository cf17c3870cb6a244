"""Our INT8 ops against torch's own linear, by shape and threads. The right answer is checked before anything is timed.

No ``setup``: asv runs it again before every single call, and would time ops of a few microseconds one cold call at a
time. Operands are made, and results checked, in the first call, which asv's warm-up throws away.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pyprod import environment
from pyprod.kernels.gemm import PackedWeight, int8_gemm, int8_gemm_reference, pack_weight
from pyprod.kernels.linear import int8_linear, int8_linear_reference
from pyprod.kernels.quantize import quantize_per_token, quantize_per_token_reference

#: M, K, N: one token, a small batch and a prompt through a layer of the encoder; one token through a large layer.
SHAPES = {"1x384x1536": (1, 384, 1536), "32x384x1536": (32, 384, 1536), "512x384x1536": (512, 384, 1536)}
SHAPES["1x4096x4096"] = (1, 4096, 4096)
THREADS = [n for n in (1, 2) if n <= len(environment.allowed_cpus())]


class Operands(NamedTuple):
    x: Tensor
    w: Tensor
    x_bf16: Tensor
    w_bf16: Tensor
    x_q: Tensor
    packed: PackedWeight
    w_scale: Tensor


@functools.cache
def operands(shape: str, threads: int) -> Operands:
    """Random operands of `shape`, after all three ops have been compared with their references on them."""
    torch.set_num_threads(threads)
    m, k, n = SHAPES[shape]
    x, w = torch.randn(m, k), torch.randn(n, k)
    w_q, w_scale = quantize_per_token(w)
    x_q, x_scale = quantize_per_token(x)
    packed = pack_weight(w_q)
    expected_q, expected_scale = quantize_per_token_reference(x)
    assert torch.equal(x_q, expected_q)
    assert torch.equal(x_scale, expected_scale)
    assert torch.equal(int8_gemm(x_q, packed), int8_gemm_reference(x_q, w_q))
    assert torch.equal(int8_linear(x, packed, w_scale), int8_linear_reference(x, w_q, w_scale))
    return Operands(x, w, x.bfloat16(), w.bfloat16(), x_q, packed, w_scale)


class Linear:
    params = (list(SHAPES), THREADS)
    param_names = ("shape", "threads")

    def time_quantize_per_token(self, shape: str, threads: int) -> None:
        quantize_per_token(operands(shape, threads).x)

    def time_int8_gemm(self, shape: str, threads: int) -> None:
        on = operands(shape, threads)
        int8_gemm(on.x_q, on.packed)

    def time_int8_linear(self, shape: str, threads: int) -> None:
        on = operands(shape, threads)
        int8_linear(on.x, on.packed, on.w_scale)

    def time_torch_linear_fp32(self, shape: str, threads: int) -> None:
        on = operands(shape, threads)
        functional.linear(on.x, on.w)

    def time_torch_linear_bf16(self, shape: str, threads: int) -> None:
        on = operands(shape, threads)
        functional.linear(on.x_bf16, on.w_bf16)
