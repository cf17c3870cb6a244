"""Static scales for convolutional networks, from rows of real data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyprod.nn.convert import layers
from pyprod.nn.linear import channel_scale
from pyprod.types import QuantSpec, TensorQuant

_LEAST = torch.finfo(torch.float32).tiny
_ROWS = 16  # a pass: enough for speed, few enough for memory


def static_quantspec(model: nn.Module, calibration: tuple[Tensor, ...]) -> QuantSpec:
    """Min-max scales: every nn.Conv2d and nn.Linear, weights per channel, activations per tensor.

    The scheme of ONNX Runtime's QDQ and of OpenVINO: scales known beforehand let int8 flow from layer to layer. An
    activation's range is that of `calibration`, widened to hold 0, so that 0 (and padding with it) is exact.

    Args:
        model: float32, in eval mode.
        calibration: inputs ``[n, ...]``, run a few rows at a time.
    """
    found = dict(layers(model))
    ranges: dict[str, tuple[float, float]] = {}
    hooks = [layer.register_forward_pre_hook(_observe(name, ranges)) for name, layer in found.items()]
    try:
        with torch.inference_mode():
            for start in range(0, calibration[0].shape[0], _ROWS):
                model(*(t[start : start + _ROWS] for t in calibration))
    finally:
        for hook in hooks:
            hook.remove()
    weights = {
        name: TensorQuant("per_channel", scale=tuple(channel_scale(found[name].weight.flatten(1)).tolist()))
        for name in ranges
    }
    return QuantSpec(weights, {name: asymmetric(*bounds) for name, bounds in ranges.items()})


def _observe(name: str, ranges: dict[str, tuple[float, float]]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = (float(bound) for bound in inputs[0].aminmax())
        before = ranges.get(name, (0.0, 0.0))
        ranges[name] = (min(before[0], low), max(before[1], high))

    return hook


def asymmetric(low: float, high: float) -> TensorQuant:
    """The 256 integers of int8 over [low, high], which holds 0."""
    scale = max((high - low) / 255, _LEAST)
    return TensorQuant("per_tensor", scale=(scale,), zero_point=(max(-128, min(127, round(-128 - low / scale))),))
