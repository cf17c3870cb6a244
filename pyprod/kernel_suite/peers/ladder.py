"""The linear layer as it was before each step that made it fast: rows are quantized, multiplied and scaled in turn.

Quantizing is pyprod's own op on every rung and scaling is PyTorch's: what differs is the product. The two upper rungs
are the product as it is now, on AVX512-VNNI and on the best instruction set; the last step, the fused kernel, is
``native.int8``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pyprod import _probe, kernels
from pyprod.kernel_suite.peers import Prepared, TorchPrepared, Variant
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

_ABOUT = {
    "naive": "three loops, as the compiler makes them",
    "blocked": "4 x 4 sums in registers, AVX-512, bytes widened to int16",
    "vnni": "the same by vpdpbusd: four products a step",
    "packed": "weights in panels of 32 channels: no sum across a vector, 8 rows in intrinsics",
    "registers": "12 rows in assembler, panels in blocks that stay in L2: the AVX512-VNNI path",
    "tiles": "AMX: 32 rows x 32 channels, loads and products in turn",
    "scheduled": "the best path: weights past L1, fetched ahead, blocked, sums finished while tiles multiply",
}
VARIANTS = {name: Variant(("ladder",), "int8", about) for name, about in _ABOUT.items()}


def available(variant: str) -> Unavailable | None:
    """What the CPU lacks."""
    if variant == "scheduled":
        return None
    rungs = dict(_probe.ladder_rungs())
    needed = "vnni" if variant == "registers" else variant
    return None if needed in rungs else Unavailable(f"this CPU lacks the instructions of the rung {variant}")


def prepare(problem: Linear, variant: str, threads: int, workdir: Path) -> Prepared:
    """Weights as the rung takes them."""
    if variant == "registers":
        os.environ["PYPROD_ISA"] = "avx512_vnni"  # read at the first op of this process, which is this peer's own
    product = _gemm(problem) if variant in ("registers", "scheduled") else _rung(problem, variant)
    scale, bias = problem.w_scale.contiguous(), problem.bias

    def linear(x: Tensor) -> Tensor:
        q, row_scale = kernels.quantize_per_token(x)
        return product(q).float().mul_(row_scale[:, None] * scale).add_(bias)

    return TorchPrepared(linear)


def _gemm(problem: Linear) -> Callable[[Tensor], Tensor]:
    packed = kernels.pack_weight(problem.w_q)
    return lambda q: kernels.int8_gemm(q, packed)


def _rung(problem: Linear, name: str) -> Callable[[Tensor], Tensor]:
    n, k = problem.n, problem.k
    takes_packed = dict(_probe.ladder_rungs())[name]
    weight = kernels.pack_weight(problem.w_q).data if takes_packed else problem.w_q.contiguous()

    def product(q: Tensor) -> Tensor:
        out = torch.empty(len(q), n, dtype=torch.int32)
        _probe.ladder_product(name, q.data_ptr(), weight.data_ptr(), len(q), n, k, out.data_ptr())
        return out

    return product
