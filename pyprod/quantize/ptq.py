"""Post-training quantization of all layers, or all but some, as a step of a recipe."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from torch import nn

from pyprod import discover
from pyprod.fuse import Smoothed, Untraceable, smooth
from pyprod.kernels.int4_linear import GROUP_SIZES
from pyprod.nn import dynamic_quantspec, from_ranges
from pyprod.quantize import bias, gptq
from pyprod.quantize.observe import Observer, ranges
from pyprod.quantize.sensitivity import only
from pyprod.step import Context, Made
from pyprod.types import PyprodError, QuantSpec
from pyprod.workloads import Workload

#: Steps that change weights must come before: `pyprod.recipes` sees to it.
FINDS_SCALES = True

_NOT_SMOOTHED = Smoothed(0, {})

Scheme = Literal["dynamic", "static"]
Rounding = Literal["nearest", "gptq"]


def apply(
    made: Made,
    context: Context,
    *,
    scheme: Scheme = "dynamic",
    observer: Observer = "minmax",
    weight_bits: int = 8,
    group_size: int = 0,
    keep_8_bits: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    correct_bias: bool = False,
    smoothing: bool = False,
    rounding: Rounding = "nearest",
) -> Made:
    """The step: see `quantspec`.

    Args:
        keep_8_bits: globs of names of layers whose weights have 8 bits per channel, whatever the others have.
        keep_float: globs of names of layers that stay in float.
        correct_bias: have channels keep the means that they have in float: `pyprod.quantize.bias`.
        smoothing: with the scheme "dynamic", move scale of outlying channels into weights before: `pyprod.fuse.smooth`.
        rounding: of weights: each to its nearest, or, with the scheme "dynamic", by "gptq": `pyprod.quantize.gptq`.

    Raises:
        PyprodError: see `quantspec`; besides, smoothing or gptq is asked for with static scales, or the model can't be
            traced, which smoothing needs.
    """
    if rounding not in get_args(Rounding):
        raise PyprodError(f"rounding is nearest or gptq, not {rounding!r}")
    if scheme != "dynamic" and (smoothing or rounding == "gptq"):
        raise PyprodError('smoothing and gptq are for scheme = "dynamic"')
    found = _smoothed(made.model, context.workload) if smoothing else _NOT_SMOOTHED
    spec = quantspec(made.model, context.workload, scheme, observer, weight_bits, group_size, found)
    wide, kept = _matching(spec, keep_8_bits), _matching(spec, keep_float)
    if wide:
        full = quantspec(made.model, context.workload, scheme, observer, smoothed=found)
        spec = QuantSpec({**spec.weights, **{name: full.weights[name] for name in wide}}, spec.activations)
    spec = only(spec, [name for name in spec.weights if name not in kept])
    how = "scales found at run time" if scheme == "dynamic" else f"scales by {observer}"
    bits = "" if weight_bits == 8 else f" to weights of {weight_bits} bits"
    bits += f" in groups of {group_size}" if group_size else ""
    note = f"{len(spec.weights)} layers quantized{bits}, {how}"
    note += f"; 8 bits: {', '.join(wide)}" if wide else ""
    note += f"; in float: {', '.join(kept)}" if kept else ""
    if rounding == "gptq":
        note += f"; weights of {gptq.round_weights(made.model, spec, context.workload.calibration)} rounded by GPTQ"
    if correct_bias:
        note += f"; biases of {bias.correct_bias(made.model, spec, context.workload.calibration)} layers corrected"
    return replace(made, quantspec=spec, notes=(*made.notes, *found.notes, note))


def _smoothed(model: nn.Module, workload: Workload) -> Smoothed:
    try:
        return smooth(model, workload.calibration)
    except Untraceable as why:
        raise PyprodError(f"smoothing: the model can't be traced: {why}") from why


def _matching(spec: QuantSpec, globs: Sequence[str]) -> list[str]:
    for glob in globs:
        if not fnmatch.filter(spec.weights, glob):
            raise PyprodError(discover.unknown("layer", glob, spec.weights))
    return [name for name in spec.weights if any(fnmatch.fnmatch(name, glob) for glob in globs)]


def quantspec(
    model: nn.Module,
    workload: Workload,
    scheme: Scheme,
    observer: Observer = "minmax",
    weight_bits: int = 8,
    group_size: int = 0,
    smoothed: Smoothed = _NOT_SMOOTHED,
) -> QuantSpec:
    """A scheme for all layers, weights symmetric per channel, or from least to largest per group.

    Args:
        scheme: "dynamic": every nn.Linear, activations per token with scales found at run time. "static": every
            nn.Linear and nn.Conv2d, activations per tensor with scales from the workload's calibration rows.
        weight_bits: 2 to 8; activations have 8.
        group_size: 32, 64 or 128: weights of 4 bits in groups, for the scheme "dynamic"; 0: per channel.
        smoothed: what is known of the inputs of some layers, for the scheme "dynamic": see `TensorQuant`.

    Raises:
        PyprodError: the scheme or observer is unknown, or the calibration rows are empty or give no finite activation.
    """
    if weight_bits not in range(2, 9):
        raise PyprodError(f"weight_bits is 2 to 8, not {weight_bits}")
    if group_size and (scheme, weight_bits, group_size in GROUP_SIZES) != ("dynamic", 4, True):
        raise PyprodError(
            f'groups are of {", ".join(map(str, GROUP_SIZES))} weights of 4 bits, with scheme = "dynamic"; '
            f"not of {group_size} with {weight_bits} bits and {scheme!r}"
        )
    if scheme == "dynamic":
        return dynamic_quantspec(model, weight_bits, group_size, smoothed.inputs, smoothed.one_sided)
    if scheme != "static":
        raise PyprodError(f"scheme is dynamic or static, not {scheme!r}")
    return from_ranges(model, ranges(model, workload.calibration, observer), weight_bits)
