"""Static scales from rows of real data: min-max ranges, and the QuantSpec that ranges give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pyprod.nn.convert import layers
from pyprod.nn.linear import channel_scale
from pyprod.types import PyprodError, QuantSpec, TensorQuant

#: Of an activation: lowest and highest value; 0 lies within, so that 0 (and padding with it) is exact.
Range = tuple[float, float]

_LEAST = torch.finfo(torch.float32).tiny
_ROWS = 16  # a pass: enough for speed, few enough for memory


def static_quantspec(model: nn.Module, calibration: tuple[Tensor, ...]) -> QuantSpec:
    """Min-max scales: every nn.Conv2d and nn.Linear, weights per channel, activations per tensor.

    The scheme of ONNX Runtime's QDQ and of OpenVINO: scales known beforehand let int8 flow from layer to layer.

    Args:
        model: float32, in eval mode.
        calibration: inputs ``[n, ...]``, run a few rows at a time.

    Raises:
        PyprodError: there are no rows, or an activation is not finite.
    """
    return from_ranges(model, minmax(model, calibration))


def from_ranges(model: nn.Module, ranges: Mapping[str, Range], bits: int = 8) -> QuantSpec:
    """The scheme of these layers: weights of `bits`, symmetric per channel; activations per tensor over the ranges."""
    found = dict(layers(model))
    weights = {
        name: TensorQuant("per_channel", bits, tuple(channel_scale(found[name].weight.flatten(1), bits).tolist()))
        for name in ranges
    }
    return QuantSpec(weights, {name: asymmetric(*bounds) for name, bounds in ranges.items()})


def minmax(model: nn.Module, calibration: tuple[Tensor, ...]) -> dict[str, Range]:
    """The range of each layer's input over all rows; see `static_quantspec`."""
    ranges: dict[str, Range] = {}

    def extend(name: str, x: Tensor) -> None:
        low, high = (float(bound) for bound in x.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise PyprodError(f"the input of {name} is not finite on the calibration rows")
        before = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(before[0], low), max(before[1], high))

    watch(model, calibration, extend)
    return ranges


def watch(model: nn.Module, calibration: tuple[Tensor, ...], see: Callable[[str, Tensor], None]) -> None:
    """Run the model over all rows; `see` gets the input of every nn.Linear and nn.Conv2d, with the layer's name.

    Raises:
        PyprodError: there are no rows.
    """
    if not calibration or not calibration[0].shape[0]:
        raise PyprodError("there are no calibration rows")

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: see(name, inputs[0])

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers(model)]
    try:
        with torch.inference_mode():
            for start in range(0, calibration[0].shape[0], _ROWS):
                model(*(t[start : start + _ROWS] for t in calibration))
    finally:
        for handle in hooks:
            handle.remove()


def asymmetric(low: float, high: float) -> TensorQuant:
    """The 256 integers of int8 over [low, high], which holds 0."""
    scale = max((high - low) / 255, _LEAST)
    return TensorQuant("per_tensor", scale=(scale,), zero_point=(max(-128, min(127, round(-128 - low / scale))),))
