"""The model as integers would compute it, in float32: for judging a QuantSpec on any machine, layer by layer.

Weights are rounded to their integers' values, inputs of layers as the kernels round them. Sums of products of such
values are what the integer kernels give, but for the rounding of float32 sums: 2^-24 of each, times the root of their
number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pyprod import discover
from pyprod.kernels.quantize import quantize_asymmetric_reference, quantize_per_token_reference
from pyprod.nn import channel_scale, int4_weight, largest, layers, multiplier, smoothing
from pyprod.types import PyprodError, QuantSpec, TensorQuant


@contextlib.contextmanager
def simulated(model: nn.Module, quantspec: QuantSpec) -> Iterator[None]:
    """Within, the layers that `quantspec` names compute as in integers. Afterwards the model is as it was.

    Raises:
        PyprodError: a name is no nn.Linear or nn.Conv2d of the model, or a scheme is not known.
    """
    undo: list[Callable[[], None]] = []
    try:
        _simulate(model, quantspec, undo)
        yield
    finally:
        for action in reversed(undo):
            action()


def simulation(model: nn.Module, quantspec: QuantSpec) -> nn.Module:
    """The model itself, changed for good to compute as in integers.

    Raises:
        PyprodError: see `simulated`.
    """
    _simulate(model, quantspec, [])
    return model


def _simulate(model: nn.Module, quantspec: QuantSpec, undo: list[Callable[[], None]]) -> None:
    found = dict(layers(model))
    for name, quant in quantspec.weights.items():
        if name not in found:
            raise PyprodError(discover.unknown("linear layer or convolution", name, found))
        layer = found[name]
        undo.append(_restore(layer, layer.weight.data))
        activation = quantspec.activations.get(name)
        layer.weight.data = fake_quantized_weight(layer.weight.data, quant, activation)
        if activation is not None:
            undo.append(layer.register_forward_pre_hook(_hook(activation)).remove)


def fake_quantized_weight(weight: Tensor, quant: TensorQuant, activation: TensorQuant | None = None) -> Tensor:
    """The values that a weight's integers stand for, ``[N, ...]``, where it reads such an activation."""
    if (scale := smoothing(activation)) is not None:
        return fake_quantized_weight(weight * scale, quant) / scale
    if quant.granularity == "per_group":
        grouped = int4_weight("a weight", weight.flatten(1), quant, TensorQuant("per_token"))
        return grouped.dequantize().view_as(weight)
    rows, most = weight.flatten(1), largest(quant.bits)
    if quant.scale:
        scale = torch.tensor(quant.scale, dtype=torch.float32).expand(len(rows))
    else:
        scale = channel_scale(rows, quant.bits)
        scale = scale.max().expand(len(rows)) if quant.granularity == "per_tensor" else scale
    if any(quant.zero_point):
        raise PyprodError("weights with zero points are not computed by any kernel here")
    return (torch.round(rows / scale[:, None]).clamp(-most, most) * scale[:, None]).view_as(weight)


def fake_quantized_activation(x: Tensor, quant: TensorQuant) -> Tensor:
    """The values that an activation's integers stand for.

    Raises:
        PyprodError: it is neither 8 bits per token, found at run time, nor static per tensor.
    """
    if quant.granularity == "per_token" and not quant.scale and quant.bits == 8:
        by = multiplier(quant)
        smoothed = x if by is None else x * by
        if quant.asymmetric:
            q, scale, zero_point = quantize_asymmetric_reference(smoothed)
            values = (q - zero_point[..., None]) * scale[..., None]
        else:
            q, scale = quantize_per_token_reference(smoothed)
            values = q.float() * scale[..., None]
        return values if by is None else values / by
    if quant.granularity == "per_tensor" and len(quant.scale) == 1:
        low, high = -(2 ** (quant.bits - 1)), 2 ** (quant.bits - 1) - 1
        step, zero = quant.scale[0], quant.zero_point[0] if quant.zero_point else 0
        return (torch.round(x / step + zero).clamp(low, high) - zero) * step
    raise PyprodError(f"no kernel computes {quant.bits}-bit {quant.granularity} activations so")


def _hook(quant: TensorQuant) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda _module, inputs: (fake_quantized_activation(inputs[0], quant), *inputs[1:])


def _restore(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> Callable[[], None]:
    def action() -> None:
        layer.weight.data = weight

    return action
