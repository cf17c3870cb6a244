"""Quantization-aware training: the rounding is in the forward pass, and its scales are trained too.

A step of a recipe. Learned step sizes (Esser et al. 2020): gradients pass through rounding as if it were not there, and
reach the scale of a tensor divided by the root of how many numbers share it times the largest integer. A weight has a
scale per output channel, so that a batch norm folded later changes scales and no integers. What comes out is the float
model and the QuantSpec that it was trained under: what the training saw is, bit for bit, what `simulate` computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pyprod import discover
from pyprod.kernels.quantize import quantize_per_token_reference
from pyprod.nn import channel_scale, largest, layers
from pyprod.quantize.observe import Observer
from pyprod.quantize.ptq import Scheme, quantspec
from pyprod.step import Context, Made
from pyprod.train import Settings, fit
from pyprod.train.distill import from_teacher
from pyprod.types import PyprodError, QuantSpec, TensorQuant
from pyprod.workloads import training

#: Steps that change weights must come before: `pyprod.recipes` sees to it.
FINDS_SCALES = True

_CHILD = "input_rounding"  # of a layer: so its scale is among the model's parameters
_LEAST = torch.finfo(torch.float32).tiny


def apply(
    made: Made,
    context: Context,
    *,
    scheme: Scheme = "static",
    observer: Observer = "minmax",
    weight_bits: int = 8,
    distill: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Made:
    """The step: trains from the QuantSpec of a step before, else from that of `ptq` with these arguments.

    Args:
        distill: fields of `pyprod.train.distill.Distillation`: learn from the workload's model as it was.
        settings: fields of `pyprod.train.Settings`.
    """
    data = training(context.workload)
    start = made.quantspec or quantspec(made.model, context.workload, scheme, observer, weight_bits)
    objective = None if distill is None else from_teacher(context.workload.model(), data, distill, context.folder)
    chosen = discover.construct(Settings, {"threads": context.threads} | settings, "qat")
    trained = Rounding(made.model, start)
    found = fit(lambda: made.model, data, chosen, objective=objective, folder=context.folder, title="")
    spec = trained.remove()
    note = f"{len(spec.weights)} layers trained for {len(found.history)} epochs under the rounding of their integers"
    return replace(made, model=found.model, quantspec=spec, notes=(*made.notes, note))


class Rounding:
    """Puts the rounding of a QuantSpec into a model's forward pass, in place, until `remove`.

    Raises:
        PyprodError: it names a layer that the model has not, or smooths an input; the model is as it was.
    """

    def __init__(self, model: nn.Module, start: QuantSpec) -> None:
        self._model, self._start = model, start
        self._hooks: list[Any] = []
        self._weights: dict[nn.Module, _Weight] = {}  # by layer
        self._inputs: dict[nn.Module, _Static | _PerToken] = {}
        found = dict(layers(model))
        for name in start.weights:
            if name not in found:
                raise PyprodError(discover.unknown("linear layer or convolution", name, found))
            if start.activations[name].smoothing:
                raise PyprodError(f"{name}: a smoothed input can't be trained under; leave out ptq's smoothing")
            if start.activations[name].asymmetric:
                raise PyprodError(f"{name}: zero points found at run time can't be trained under")
        for name, quant in start.weights.items():
            layer = found[name]
            if layer in self._inputs:  # under two names
                continue
            self._weights[layer] = _Weight(layer.weight, quant)
            parametrize.register_parametrization(layer, "weight", self._weights[layer])
            rounding = self._input(start.activations[name])
            layer.add_module(_CHILD, rounding)
            self._inputs[layer] = rounding
            self._hooks.append(layer.register_forward_pre_hook(_hook(rounding)))

    def _input(self, quant: TensorQuant) -> _Static | _PerToken:
        """Layers that read one tensor have one range, and must keep one scale: kernels round the tensor once."""
        if not quant.scale:
            return _PerToken(quant)
        known = (r for r in self._inputs.values() if isinstance(r, _Static) and r.quant == quant)
        return next(known, None) or _Static(quant)

    def remove(self) -> QuantSpec:
        """The model as a float model again, and the QuantSpec with the scales that were learned."""
        named = {name: self._model.get_submodule(name) for name in self._start.weights}
        weights = {name: self._weights[layer].learned() for name, layer in named.items()}
        activations = {name: self._inputs[layer].learned() for name, layer in named.items()}
        for layer in self._inputs:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            delattr(layer, _CHILD)
        for hook in self._hooks:
            hook.remove()
        return QuantSpec(weights, activations)


def _hook(rounding: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    return lambda _module, inputs: (rounding(inputs[0]), *inputs[1:])


class _Weight(nn.Module):
    """A weight ``[N, ...]`` rounded to symmetric integers, a learned scale for each output channel."""

    def __init__(self, weight: Tensor, quant: TensorQuant) -> None:
        super().__init__()
        self._bits, self._most = quant.bits, largest(quant.bits)
        rows = weight.detach().flatten(1)
        start = torch.tensor(quant.scale).expand(len(rows)) if quant.scale else channel_scale(rows, quant.bits)
        self.scale = nn.Parameter(start.clone())
        self._share = 1 / math.sqrt(max(1, rows.shape[1]) * self._most)

    def positive(self) -> Tensor:
        return _slowed(self.scale, self._share).clamp_min(_LEAST)

    def learned(self) -> TensorQuant:
        return TensorQuant("per_channel", self._bits, tuple(self.positive().tolist()))

    def forward(self, weight: Tensor) -> Tensor:
        scale = self.positive().view(-1, *[1] * (weight.dim() - 1))
        return _rounded((weight / scale).clamp(-self._most, self._most)) * scale


class _Static(nn.Module):
    """An activation rounded to integers with one learned scale; its zero point stays."""

    def __init__(self, quant: TensorQuant) -> None:
        super().__init__()
        self.quant = quant
        self._zero = quant.zero_point[0] if quant.zero_point else 0
        self._low, self._high = -(2 ** (quant.bits - 1)), largest(quant.bits)
        self.scale = nn.Parameter(torch.tensor(quant.scale[0]))

    def learned(self) -> TensorQuant:
        return replace(self.quant, scale=(float(self.scale.detach().clamp_min(_LEAST)),))

    def forward(self, x: Tensor) -> Tensor:
        scale = _slowed(self.scale, 1 / math.sqrt(max(1, x.numel()) * self._high)).clamp_min(_LEAST)
        return (_rounded((x / scale + self._zero).clamp(self._low, self._high)) - self._zero) * scale


class _PerToken(nn.Module):
    """An activation rounded to int8, a scale found for each row as it comes: nothing is learned."""

    def __init__(self, quant: TensorQuant) -> None:
        super().__init__()
        self._quant = quant

    def learned(self) -> TensorQuant:
        return self._quant

    def forward(self, x: Tensor) -> Tensor:
        q, scale = quantize_per_token_reference(x.detach())
        return _straight(x, q.float() * scale[..., None])


def _rounded(x: Tensor) -> Tensor:
    return _straight(x, torch.round(x))


def _straight(x: Tensor, value: Tensor) -> Tensor:
    out: Tensor = _Straight.apply(x, value)  # type: ignore[no-untyped-call]
    return out


def _slowed(x: Tensor, share: float) -> Tensor:
    out: Tensor = _Slow.apply(x, share)  # type: ignore[no-untyped-call]
    return out


class _Straight(torch.autograd.Function):
    """Another value forward, as if it were `x` backward (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Slow(torch.autograd.Function):
    """`x` forward, its gradient times a share backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.share, None
