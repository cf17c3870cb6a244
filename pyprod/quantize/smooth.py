"""Smoothing as a step: scale of channels with outliers moved into the weights that read them."""

from __future__ import annotations

from dataclasses import replace

from pyprod.fuse import Untraceable
from pyprod.fuse import smooth as move_scale
from pyprod.step import Context, Made
from pyprod.types import PyprodError


def apply(made: Made, context: Context, *, strength: float | None = None) -> Made:
    """The step: see `pyprod.fuse.smooth`. The model computes the same in float; what is quantized after it loses less.

    `native` does this by itself to a model without a QuantSpec.

    Args:
        strength: how much of a channel's scale moves, 0 to 1; by default what suits each place best.

    Raises:
        PyprodError: strength is no share, or the model can't be traced.
    """
    if strength is not None and not 0 <= strength <= 1:
        raise PyprodError(f"strength is 0 to 1, not {strength:g}")
    try:
        found = move_scale(made.model, context.workload.calibration, strength)
    except Untraceable as why:
        raise PyprodError(f"the model can't be traced: {why}") from why
    return replace(made, notes=(*made.notes, found.moved))
