"""pyprod's own kernels: what the suite is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyprod import kernels
from pyprod.kernel_suite.peers import Prepared, TorchPrepared, Variant
from pyprod.kernel_suite.problems._fused import Fused
from pyprod.kernel_suite.problems.gemm import Gemm
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

_FUSED = ("gelu_quantize", "layer_norm_quantize", "rms_norm_quantize", "silu_mul_quantize")
_KINDS = ("linear", "linear_cold", "ladder", "gemm", *_FUSED)
VARIANTS = {"int8": Variant(_KINDS, "int8", "pyprod.kernels: int8_linear, int8_gemm, *_quantize")}


def available(variant: str) -> Unavailable | None:
    """None: a library that is not built fails on import."""
    return None


def prepare(problem: Linear | Gemm | Fused, variant: str, threads: int, workdir: Path) -> Prepared:
    """The op with its packed weights."""
    return TorchPrepared(_function(problem))


def _function(problem: Linear | Gemm | Fused) -> Callable[..., Any]:
    if isinstance(problem, Fused):
        op: Callable[..., Any] = getattr(kernels, problem.name)
        arguments = problem.arguments
        return lambda *rows: op(*rows, *arguments)
    packed = kernels.pack_weight(problem.w_q)
    if isinstance(problem, Gemm):
        gemm = kernels.int8_gemm
        return lambda a: gemm(a, packed)
    linear, scale, bias = kernels.int8_linear, problem.w_scale.contiguous(), problem.bias
    assert scale.dtype == torch.float32
    return lambda x: linear(x, packed, scale, bias)
