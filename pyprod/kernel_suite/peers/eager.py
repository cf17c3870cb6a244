"""PyTorch eager: float32 and bfloat16 linears, the int8 product `torch._int_mm`, and norms that quantize op by op."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernel_suite.peers import Prepared, TorchPrepared, Variant
from pyprod.kernel_suite.problems._fused import Fused
from pyprod.kernel_suite.problems.gemm import Gemm
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

_FUSED = ("gelu_quantize", "layer_norm_quantize", "rms_norm_quantize", "silu_mul_quantize")
VARIANTS = {
    "fp32": Variant(("linear", *_FUSED), "float32", "torch.nn.functional, float32"),
    "bf16": Variant(
        ("linear", "linear_cold"), "bfloat16", "weights in bfloat16, rows converted there and back in the call"
    ),
    "int_mm": Variant(("gemm",), "int8", "torch._int_mm with the weight laid out [K, N] by columns"),
}


def available(variant: str) -> Unavailable | None:
    """None: it is PyTorch itself."""
    return None


def prepare(problem: Linear | Gemm | Fused, variant: str, threads: int, workdir: Path) -> Prepared:
    """The function on the weights as they are."""
    return TorchPrepared(_function(problem, variant))


def _function(problem: Linear | Gemm | Fused, variant: str) -> Callable[..., Any]:
    if isinstance(problem, Fused):
        return problem.eager
    if isinstance(problem, Gemm):
        columns = problem.w_q.T
        return lambda a: torch._int_mm(a, columns)
    if variant == "fp32":
        weight, bias = problem.weight, problem.bias
        return lambda x: functional.linear(x, weight, bias)
    weight, bias = problem.weight.bfloat16(), problem.bias.bfloat16()

    def bf16(x: Tensor) -> Tensor:
        return functional.linear(x.bfloat16(), weight, bias).float()

    return bf16
