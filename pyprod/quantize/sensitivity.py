"""What each layer costs when it alone is quantized: by the output on real rows, without labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyprod.quantize.simulate import simulated
from pyprod.types import QuantSpec

_ROWS = 32  # a pass


def sensitivity(model: nn.Module, quantspec: QuantSpec, rows: tuple[Tensor, ...]) -> dict[str, float]:
    """By name of each layer of `quantspec`, the relative L2 error of the model's output with that layer alone in
    integers; the largest first. 0 is no error, 1 as much as the output itself. NaN, which comes first, is an output
    that is not finite.

    Args:
        model: float32, in eval mode.
        rows: inputs ``[n, ...]``.
    """
    want = outputs(model, rows)
    norm = want.norm().clamp_min(torch.finfo(torch.float64).tiny)
    found = {}
    for name in quantspec.weights:
        with simulated(model, only(quantspec, [name])):
            found[name] = float((outputs(model, rows) - want).norm() / norm)
    return dict(sorted(found.items(), key=lambda item: (item[1] == item[1], -item[1])))


def only(quantspec: QuantSpec, names: list[str]) -> QuantSpec:
    """The part of a QuantSpec that is about these layers."""
    return QuantSpec(
        {name: quantspec.weights[name] for name in names},
        {name: quantspec.activations[name] for name in names if name in quantspec.activations},
    )


def outputs(model: nn.Module, rows: tuple[Tensor, ...]) -> Tensor:
    """What the model gives for all rows, in float64."""
    with torch.inference_mode():
        parts = [model(*(t[i : i + _ROWS] for t in rows)) for i in range(0, rows[0].shape[0], _ROWS)]
    return torch.cat(parts).double()
