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
    is written out: autograd takes five times as long, most of it for what a row's largest element was.

    Args:
        x: ``[t, k]``.
        weights: of the layers, ``[n, k]`` each.
        importances: of their outputs.

    Attributes:
        of_x: ``[r, k]``, what a squared error of a channel of x costs each of the r layers.
        of_weight: ``[r, k]``, what one of a column of its weight does.
    """

    def __init__(self, x: Tensor, weights: Sequence[Tensor], importances: Sequence[Importance]) -> None:
        self._x, self._weights = x.abs(), [weight.abs() for weight in weights]
        self._tokens = torch.stack([importance.tokens for importance in importances])
        self._channels = [importance.channels for importance in importances]
        self.of_x = torch.stack([c @ w.square() for c, w in zip(self._channels, self._weights, strict=True)])
        self.of_weight = self._tokens @ x.square()
        self._squares = torch.empty_like(self._x)  # memory of this size costs more to get than to fill

    def __call__(self, scale: Tensor) -> tuple[float, Tensor]:
        """The cost of scales ``[k]``, and its gradient ``[k]``."""
        cost, gradient = self._of_rounded_x(scale)
        for weight, channels, of_weight in zip(self._weights, self._channels, self.of_weight, strict=True):
            more, slope = _of_rounded_weight(scale, weight, channels, of_weight)
            cost, gradient = cost + more, gradient + slope
        return float(cost), gradient

    def _of_rounded_x(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Each value is off by its token's step, but by no more than all of it: ``min(step * scale^2, x^2)``."""
        values = torch.mul(self._x, 1 / scale, out=self._squares)
        largest, where = values.max(1)
        squares, step = values.square_(), largest.square() * _ROUNDING
        weighs = scale.square() * self.of_x  # [r, k]
        rounded = (squares > step[:, None]).to(squares.dtype)  # else it is less than a step, and lost
        cost = ((self._tokens @ torch.minimum(squares, step[:, None], out=squares)) * weighs).sum()
        of_scale = 2 / scale * (((self._tokens * step) @ rounded) * weighs).sum(0)
        of_step = (self._tokens * (weighs @ rounded.T)).sum(0)
        return cost, of_scale.index_add_(0, where, -2 * step * of_step / scale[where])


def _of_rounded_weight(scale: Tensor, weight: Tensor, channels: Tensor, of_weight: Tensor) -> tuple[Tensor, Tensor]:
    largest, where = (weight * scale).max(1)
    steps = channels * largest.square() * _ROUNDING
    reads = of_weight / scale.square()
    gradient = -2 * steps.sum() * reads / scale
    return steps.sum() * reads.sum(), gradient.index_add_(0, where, 2 * steps * reads.sum() / scale[where])
