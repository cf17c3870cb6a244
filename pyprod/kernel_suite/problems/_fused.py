"""What the memory-bound problems share: a function in plain PyTorch that ends in quantization per token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyprod.kernels.quantize import quantize_per_token_reference
from pyprod.types import Mismatch

BATCHES = (1, 8, 32, 128, 512)
#: A code may differ by one step where float rounding moves a value across the middle between two: for values spread
#: over 127 steps with relative error 1e-6 (some roundings of float32) one in some thousand. Scales agree to that error.
ONE_STEP_SHARE = 2e-3
SCALE_ERROR = 1e-5


class Fused:
    """``quantize_per_token(function(*inputs))``.

    Attributes:
        name: the op of `pyprod.kernels` that fuses it.
        function: float32 in plain PyTorch, weights bound.
        arguments: what the fused op takes behind the rows.
    """

    def __init__(
        self, name: str, k: int, tensors: int, function: Callable[..., Tensor], arguments: tuple[object, ...] = ()
    ) -> None:
        self.name, self.k, self.tensors, self.function, self.arguments = name, k, tensors, function, arguments

    def eager(self, *rows: Tensor) -> tuple[Tensor, Tensor]:
        """What a user writes without the fused op, and torch.compile may fuse."""
        y = self.function(*rows)
        scale = (y.abs().amax(-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return (y / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale

    def inputs(self, m: int) -> tuple[Tensor, ...]:
        """Gaussian rows ``[m, K]``."""
        generator = torch.Generator().manual_seed(self.k)
        return tuple(torch.randn(m, self.k, generator=generator) for _ in range(self.tensors))

    def check(self, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], numerics: str) -> float:
        """Share of codes that differ, all by one step, from those of the function in float64."""
        q, scale = outputs
        want_q, want_scale = quantize_per_token_reference(self.function(*(x.double() for x in inputs)).float())
        if q.shape != want_q.shape or scale.shape != want_scale.shape:
            raise Mismatch(f"outputs have shapes {list(q.shape)}, {list(scale.shape)}, want {list(want_q.shape)}")
        scale_error = float(((scale.double() - want_scale) / want_scale).abs().max())
        steps = (q.int() - want_q.int()).abs()
        share = float((steps > 0).double().mean())
        if not (scale_error <= SCALE_ERROR and int(steps.max()) <= 1 and share <= ONE_STEP_SHARE):
            raise Mismatch(f"scales off by {scale_error:.2g}, codes by up to {int(steps.max())} ({share:.2%} of them)")
        return share
