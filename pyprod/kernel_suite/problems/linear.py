"""A linear layer end to end: float32 in, matrix product with weights that int8 holds exactly, bias, float32 out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyprod.kernel_suite.problems import ROWS
from pyprod.kernel_suite.problems._matrix import SIZES, checked_rows, gaussian_codes
from pyprod.kernels._cost import Cost
from pyprod.kernels.linear import int8_linear_cost
from pyprod.types import Mismatch

__all__ = ["BATCHES", "OURS", "PATTERN", "SIZES", "Linear", "build", "cost"]

BATCHES = ROWS
OURS = ("native.int8",)
PATTERN = "read"
#: As relative L2 error. An 8-bit code of a Gaussian is off by 0.009 (per row, step 3.5 s / 127) to 0.010 of its
#: deviation (per tensor, step 9 s / 255), and there are at most three such roundings: rows, weights, output. That is
#: 0.018; a missing bias, a wrong scale or a transposed weight is above 0.5. bfloat16 rounds to 2^-9 twice.
TOLERANCE: Mapping[str, float] = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 3e-2}


class Linear:
    """``x @ (w_q * w_scale).T + bias``.

    Attributes:
        w_q: int8 ``[N, K]``.
        w_scale: float32 ``[N]``; outputs have a standard deviation near 1.
        bias: float32 ``[N]``.
    """

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k
        self.w_q = gaussian_codes(n, k, seed=n * 100_003 + k)
        generator = torch.Generator().manual_seed(n + k)
        self.w_scale = (0.75 + 0.5 * torch.rand(n, generator=generator)) / (44 * k**0.5)  # codes deviate by 44
        self.bias = torch.randn(n, generator=generator)

    @property
    def weight(self) -> Tensor:
        """float32 ``[N, K]``, made anew each time: it may be hundreds of megabytes."""
        return self.w_q.float().mul_(self.w_scale[:, None])

    def inputs(self, m: int) -> tuple[Tensor, ...]:
        """Gaussian rows ``[m, K]``."""
        return (torch.randn(m, self.k, generator=torch.Generator().manual_seed(self.k)),)

    def check(self, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], numerics: str) -> float:
        """Relative L2 error on some rows, against float32."""
        (x,), (y,) = inputs, outputs
        if y.shape != (len(x), self.n):
            raise Mismatch(f"output has shape {list(y.shape)}, want {[len(x), self.n]}")
        if not bool(y.isfinite().all()):
            raise Mismatch("output is not finite")
        rows = checked_rows(len(x))
        want = (x[rows] @ self.weight.T + self.bias).double()
        error = float((y[rows].double() - want).norm() / want.norm())
        if not error <= TOLERANCE[numerics]:
            raise Mismatch(f"relative error {error:.3g} against float32, tolerance {TOLERANCE[numerics]:g}")
        return error


def build(n: int, k: int) -> Linear:
    """The layer with its weights."""
    return Linear(n, k)


def cost(m: int, n: int, k: int) -> Cost:
    """Cost of m rows."""
    return int8_linear_cost(m, n, k)
