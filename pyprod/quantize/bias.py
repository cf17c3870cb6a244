"""Bias correction: what rounding adds to a channel's mean is taken off its bias (Nagel et al., 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyprod.nn import layers
from pyprod.quantize.simulate import simulated
from pyprod.types import PyprodError, QuantSpec


def correct_bias(model: nn.Module, quantspec: QuantSpec, calibration: tuple[Tensor, ...]) -> int:
    """Have every channel of every quantized layer keep the mean that it has in float, over the calibration rows.

    Layer by layer as the rows pass through them, so that each sees inputs whose means are right already. A layer
    without a bias gets one.

    Args:
        model: in eval mode; its biases are changed.
        calibration: inputs ``[n, ...]``, run at once.

    Returns:
        The number of layers.

    Raises:
        PyprodError: there are no rows, or a layer's output is not finite.
    """
    if not len(calibration[0]):
        raise PyprodError("bias correction needs calibration rows")
    found = {name: layer for name, layer in layers(model) if name in quantspec.weights}
    wanted: dict[str, Tensor] = {}
    with torch.inference_mode():
        _run(model, found, calibration, lambda name, mean: wanted.setdefault(name, mean))
    shifts: dict[str, Tensor] = {}
    with simulated(model, quantspec), torch.inference_mode():
        _run(model, found, calibration, lambda name, mean: shifts.setdefault(name, mean - wanted[name]), shift=True)
    for name, shift in shifts.items():
        if not bool(shift.isfinite().all()):
            raise PyprodError(f"the output of {name} is not finite on the calibration rows")
        _lower(found[name], shift.clone())
    return len(shifts)


def _run(
    model: nn.Module,
    found: dict[str, nn.Linear | nn.Conv2d],
    calibration: tuple[Tensor, ...],
    visit: Callable[[str, Tensor], Tensor],
    shift: bool = False,
) -> None:
    """The rows through the model; visit(name, mean of each channel) as a layer is called first, and every time with
    `shift`, what it returns is taken off the output."""
    hooks = [layer.register_forward_hook(_hook(name, layer, visit, shift)) for name, layer in found.items()]
    try:
        model(*calibration)
    finally:
        for hook in hooks:
            hook.remove()


def _hook(
    name: str, layer: nn.Linear | nn.Conv2d, visit: Callable[[str, Tensor], Tensor], shift: bool
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
    channel = 1 if isinstance(layer, nn.Conv2d) else -1

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        mean = output.movedim(channel, -1).flatten(0, -2).mean(0)
        off = visit(name, mean)
        return (output.movedim(channel, -1) - off).movedim(-1, channel) if shift else None

    return hook


def _lower(layer: nn.Linear | nn.Conv2d, shift: Tensor) -> None:
    if layer.bias is None:
        layer.bias = nn.Parameter(-shift, requires_grad=layer.weight.requires_grad)
    else:
        layer.bias.data = layer.bias.data - shift
