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
    packed = kernels.pack_weight(torch.randint(-128, 128, (N, K), dtype=torch.int8))
    scale, bias = torch.rand(N) / 100, torch.randn(N)
    return lambda x: kernels.int8_linear(x, packed, scale, bias, "gelu"), torch.randn(rows, K)


CALLS = {name: make for name, make in globals().items() if name in kernels.__all__}
