"""GPTQ: a weight is rounded one input channel after another, and those that follow make up for each one's error.

Frantar et al., 2023 (arXiv 2210.17323), channels of large inputs first. What counts is the squared error of the layer's
output on calibration rows, where rounding to nearest looks at each weight by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pyprod.kernels.int4_linear import Int4Weight
from pyprod.nn import int4_weight, int8_weight, largest, linears, smoothing
from pyprod.types import PyprodError, QuantSpec, TensorQuant

_ROWS = 16  # of calibration a pass
_BLOCK = 128  # channels whose corrections stay in cache before the rest of the weight gets theirs
_OUTPUTS = 1024  # rounded at a time: a block of them is 512 KB
_DAMPING = 0.01  # of the mean square of an input, as in the paper: keeps the inverse finite


def round_weights(model: nn.Module, quantspec: QuantSpec, calibration: tuple[Tensor, ...]) -> int:
    """Round the weight of every linear layer that `quantspec` names, in place.

    What is left are float weights that the scheme's own integers hold as they are. A weight that something else shares
    becomes the layer's own.

    Args:
        model: float32, in eval mode, on the CPU.
        quantspec: activations per token; weights per channel or tensor, or of 4 bits per group.
        calibration: inputs ``[n, ...]``, run a few rows at a time.

    Returns:
        The number of layers.

    Raises:
        PyprodError: a scheme is none of these, a layer reads nothing or what is not finite, or there are no rows.
    """
    if not calibration or not len(calibration[0]):
        raise PyprodError("gptq needs calibration rows")
    found = {layer: name for name, layer in linears(model) if name in quantspec.weights}
    moments = second_moments(model, set(found), calibration)
    for layer, name in found.items():
        quant, activation = quantspec.weights[name], quantspec.activations.get(name)
        if layer not in moments or not bool(moments[layer].isfinite().all()):
            raise PyprodError(f"{name} reads nothing finite when the calibration rows run")
        layer.weight = nn.Parameter(
            rounded(name, layer.weight.detach(), moments[layer], quant, activation), layer.weight.requires_grad
        )
    return len(found)


def second_moments(
    model: nn.Module, layers: set[nn.Linear], calibration: tuple[Tensor, ...]
) -> dict[nn.Linear, Tensor]:
    """``x.T @ x`` ``[k, k]`` of all that each layer reads."""
    found: dict[nn.Linear, Tensor] = {}

    def add(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2)
        found[layer] = torch.addmm(found[layer], x.T, x) if layer in found else x.T @ x

    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            for start in range(0, len(calibration[0]), _ROWS):
                model(*(t[start : start + _ROWS] for t in calibration))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rounded(name: str, weight: Tensor, moments: Tensor, quant: TensorQuant, activation: TensorQuant | None) -> Tensor:
    """The weight ``[n, k]`` of a layer that reads inputs of these second moments, rounded.

    Raises:
        PyprodError: no kernel has that scheme; the message begins with `name`.
    """
    smooth = smoothing(activation)
    by = torch.ones(weight.shape[1]) if smooth is None else smooth
    inverse, order = _inverse(moments / by / by[:, None])
    parts = []
    for start in range(0, len(weight), _OUTPUTS):
        part = weight[start : start + _OUTPUTS]
        own = quant if len(quant.scale) <= 1 else replace(quant, scale=quant.scale[start : start + len(part)])
        parts.append(_rounded(part * by, inverse, order, _grid(name, part, own, activation)))
    return torch.cat([*parts, weight[:0]]) / by


def _inverse(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The upper Cholesky factor of the inverse, its channels in the order in which they are rounded, and that order."""
    moments = moments.double()
    dead = moments.diagonal() == 0  # of no input: rounded to nearest
    moments = moments + torch.diag(dead.double())
    order = moments.diagonal().argsort(descending=True, stable=True)
    moments = moments[order][:, order]
    moments.diagonal().add_(_DAMPING * moments.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    return torch.linalg.cholesky(inverse, upper=True).float(), order


#: Rounds channel j of some outputs, ``[n]``.
_Grid = Callable[[Tensor, int], Tensor]


def _rounded(weight: Tensor, inverse: Tensor, order: Tensor, grid: _Grid) -> Tensor:
    left = weight[:, order].T.contiguous()  # [k, n]
    count = len(left)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = torch.empty(end - start, left.shape[1])
        for i in range(start, end):
            value = grid(left[i], int(order[i]))
            errors[i - start] = (left[i] - value) / inverse[i, i]
            left[i] = value
            left[i + 1 : end].addr_(inverse[i, i + 1 : end], errors[i - start], alpha=-1)
        left[end:].addmm_(inverse[start:end, end:].T, errors, alpha=-1)
    out = torch.empty_like(weight)
    out[:, order] = left.T
    return out


def _grid(name: str, weight: Tensor, quant: TensorQuant, activation: TensorQuant | None) -> _Grid:
    if quant.granularity == "per_group":
        return _Grouped(int4_weight(name, weight, quant, activation))
    _, scale = int8_weight(name, weight, quant, activation)
    most = largest(quant.bits)
    return lambda channel, _: torch.round(channel / scale).clamp_(-most, most) * scale


@dataclass
class _Grouped:
    """The values of each group's 16 integers. Whatever was the least or the largest of a group stays that: by these the
    grid is found again when the rounded weight is quantized."""

    found: Int4Weight

    def __call__(self, channel: Tensor, j: int) -> Tensor:
        assert self.found.zero_point is not None
        group, q = j // self.found.group_size, self.found.q[:, j]
        scale, zero = self.found.scale[:, group].float(), self.found.zero_point[:, group].float()
        code = torch.round(channel / scale + zero).clamp_(0, 15)
        return (torch.where((q == 0) | (q == 15), q.float(), code) - zero) * scale
