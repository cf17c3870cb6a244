"""What a user would call instead, by name: each makes a call on the GPU for one problem, or says why there is none."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyprod import kernels
from pyprod.gpu.timing import Stopwatch
from pyprod.types import PyprodError
from tools.gpu_check import cublaslt, data

Call = Callable[[], object]


@dataclass
class Problem:
    """``x[m, k]`` and a weight ``[n, k]``, as floats and as the int8 codes they are made of."""

    m: int
    n: int
    k: int

    def __post_init__(self) -> None:
        self.a, self.w = data.codes(self.m, self.k), data.codes(self.n, self.k)
        self.packed = kernels.pack_weight(self.w)
        self.row_scale = torch.rand(self.m, device="cuda") / 100
        self.col_scale = torch.rand(self.n, device="cuda") / 100
        self.bias = torch.randn(self.n, device="cuda")
        self.x = (self.a * self.row_scale[:, None]).bfloat16()
        self.weight = (self.w * self.col_scale[:, None]).bfloat16()


def gemm(p: Problem) -> Call:
    """Ours, int8 to int32."""
    return lambda: kernels.int8_gemm(p.a, p.packed)


def int_mm(p: Problem) -> Call:
    """PyTorch's ``_int_mm``; it wants more than 16 rows, and multiples of 8."""
    w = p.w.T
    return lambda: torch._int_mm(p.a, w)


def cublaslt_best(p: Problem) -> Call:
    """cuBLASLt, the fastest of all its algorithms here."""
    found = cublaslt.calls(p.a, p.w)
    if not found:
        raise PyprodError("cuBLASLt offers no algorithm for this shape")
    return min(found, key=lambda call: statistics.median(Stopwatch(call).sample(5, 100_000_000)))


def linear(p: Problem) -> Call:
    """Ours, a whole layer: bfloat16 in, quantized per token, bias, GELU, bfloat16 out."""
    return lambda: kernels.int8_linear(p.x, p.packed, p.col_scale, p.bias, "gelu")


def prequantized(p: Problem) -> Call:
    """Ours, the product and the whole epilogue: int8 in, scales, bias, GELU, bfloat16 out."""
    options: dict[str, Any] = {"activation": "gelu", "out_dtype": torch.bfloat16}
    return lambda: kernels.int8_linear_prequantized(p.a, p.row_scale, p.packed, p.col_scale, p.bias, **options)


def cublaslt_and_epilogue(p: Problem) -> Call:
    """cuBLASLt's best, then scales, bias and GELU in one kernel by torch.compile."""
    product = cublaslt_best(p)

    @torch.compile(fullgraph=True)
    def epilogue(sums: Tensor) -> Tensor:
        y = sums.float() * (p.row_scale[:, None] * p.col_scale) + p.bias
        return functional.gelu(y).bfloat16()

    return lambda: epilogue(product())


def bf16(p: Problem) -> Call:
    """PyTorch's bfloat16 layer with bias, no GELU."""
    bias = p.bias.bfloat16()
    return lambda: functional.linear(p.x, p.weight, bias)


def fp8(p: Problem) -> Call:
    """PyTorch's ``_scaled_mm`` on float8, scales of rows and columns, bfloat16 out."""
    x, w = p.x.to(torch.float8_e4m3fn), p.weight.to(torch.float8_e4m3fn).T
    rows, columns = p.row_scale[:, None], p.col_scale[None]
    return lambda: torch._scaled_mm(x, w, scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16)


#: By the group that is compared: what is done for int32 sums, and what for a layer.
GROUPS: dict[str, dict[str, Callable[[Problem], Call]]] = {
    "sums": {"pyprod": gemm, "_int_mm": int_mm, "cuBLASLt": cublaslt_best},
    "layer": {
        "pyprod": prequantized,
        "pyprod, quantizing": linear,
        "cuBLASLt + compiled": cublaslt_and_epilogue,
        "bf16": bf16,
        "fp8": fp8,
    },
}
