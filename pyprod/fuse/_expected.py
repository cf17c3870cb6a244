"""What rounding to int8 is expected to cost layers that read a value, and how that changes with the value's scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyprod.fuse._importance import Importance

#: Variance of what rounding to int8 takes from a value, in squares of the largest: that of a uniform error of +-1/2.
_ROUNDING = 1 / (12 * 127**2)


class Expected:
    """The expectation of squared errors of the layers' outputs, by importance, as if roundings were random.

    For scales ``s [k]`` the value ``x / s`` is rounded by token, and a weight ``w * s`` by output channel. The gradient
    is written out: autograd takes 7 to 10 times as long, much of it in a ``max(1)`` that tells where the largest is.

    Args:
        x: ``[t, k]``.
        weights: of the layers, ``[n, k]`` each.
        importances: of their outputs.
        step: variance of rounding errors, as a share of what it is where integers lie around 0: see `range_share`.

    Attributes:
        of_x: ``[r, k]``, what a squared error of a channel of x costs each of the r layers.
        of_weight: ``[r, k]``, what one of a column of its weight does.
    """

    def __init__(
        self, x: Tensor, weights: Sequence[Tensor], importances: Sequence[Importance], step: float = 1.0
    ) -> None:
        self._rounding = step * _ROUNDING
        self._x, self._weights = x.abs(), [weight.abs() for weight in weights]
        self._tokens = torch.stack([importance.tokens for importance in importances])
        self._channels = [importance.channels for importance in importances]
        self.of_x = torch.stack([c @ w.square() for c, w in zip(self._channels, self._weights, strict=True)])
        self.of_weight = self._tokens @ x.square()
        self._room = [torch.empty_like(self._x) for _ in range(2)]  # memory of this size costs more to get than to fill

    def __call__(self, scale: Tensor) -> tuple[float, Tensor]:
        """The cost of scales ``[k]``, and its gradient ``[k]``."""
        cost, gradient = self._of_rounded_x(scale)
        for weight, channels, of_weight in zip(self._weights, self._channels, self.of_weight, strict=True):
            more, slope = _of_rounded_weight(scale, weight, channels, of_weight)
            cost, gradient = cost + more, gradient + slope
        return float(cost), gradient

    def _of_rounded_x(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Each value is off by its token's step, but by no more than all of it: ``min(step * scale^2, x^2)``."""
        squares, mask = self._room
        torch.mul(self._x, 1 / scale, out=squares).square_()
        largest = squares.amax(1)
        step = largest * self._rounding
        weighs = scale.square() * self.of_x  # [r, k]
        torch.gt(squares, step[:, None], out=mask)  # what is rounded; the rest is lost
        of_scale = (((self._tokens * step) @ mask) * weighs).sum(0)
        of_step = (self._tokens * (weighs @ mask.T)).sum(0)
        torch.eq(squares, largest[:, None], out=mask)  # what the step comes from
        cost = ((self._tokens @ torch.minimum(squares, step[:, None], out=squares)) * weighs).sum()
        return cost, 2 / scale * (of_scale - (step * of_step) @ mask)


def range_share(x: Tensor) -> float:
    """What zero points for each of the tokens ``[t, k]`` leave of the variance of its rounding errors, on average: from
    0.25, of values on one side of 0, to 1."""
    high, low = x.amax(1).clamp(min=0), x.amin(1).clamp(max=0)
    largest = torch.maximum(high, -low).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((high - low) / (2 * largest)).square().mean())


def _of_rounded_weight(scale: Tensor, weight: Tensor, channels: Tensor, of_weight: Tensor) -> tuple[Tensor, Tensor]:
    scaled = weight * scale
    largest = scaled.amax(1)
    steps = channels * largest.square() * _ROUNDING
    reads = of_weight / scale.square()
    of_step = steps @ torch.eq(scaled, largest[:, None], out=scaled)
    return steps.sum() * reads.sum(), 2 / scale * (of_step * reads.sum() - steps.sum() * reads)
