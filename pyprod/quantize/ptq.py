"""Post-training quantization of all layers, or all but some, as a step of a recipe."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import nn

from pyprod import discover
from pyprod.nn import dynamic_quantspec, from_ranges
from pyprod.quantize.observe import Observer, ranges
from pyprod.quantize.sensitivity import only
from pyprod.step import Context, Made
from pyprod.types import PyprodError, QuantSpec
from pyprod.workloads import Workload

#: Steps that change weights must come before: `pyprod.recipes` sees to it.
FINDS_SCALES = True

Scheme = Literal["dynamic", "static"]


def apply(
    made: Made,
    context: Context,
    *,
    scheme: Scheme = "dynamic",
    observer: Observer = "minmax",
    weight_bits: int = 8,
    keep_float: Sequence[str] = (),
) -> Made:
    """The step: see `quantspec`.

    Args:
        keep_float: globs of names of layers that stay in float.
    """
    spec = quantspec(made.model, context.workload, scheme, observer, weight_bits)
    kept = [name for name in spec.weights if any(fnmatch.fnmatch(name, glob) for glob in keep_float)]
    for glob in keep_float:
        if not fnmatch.filter(spec.weights, glob):
            raise PyprodError(discover.unknown("layer", glob, spec.weights))
    spec = only(spec, [name for name in spec.weights if name not in kept])
    how = "scales found at run time" if scheme == "dynamic" else f"scales by {observer}"
    bits = "" if weight_bits == 8 else f" to weights of {weight_bits} bits"
    note = f"{len(spec.weights)} layers quantized{bits}, {how}" + (f"; in float: {', '.join(kept)}" if kept else "")
    return replace(made, quantspec=spec, notes=(*made.notes, note))


def quantspec(
    model: nn.Module, workload: Workload, scheme: Scheme, observer: Observer = "minmax", weight_bits: int = 8
) -> QuantSpec:
    """A scheme for all layers, weights symmetric per channel.

    Args:
        scheme: "dynamic": every nn.Linear, activations per token with scales found at run time. "static": every
            nn.Linear and nn.Conv2d, activations per tensor with scales from the workload's calibration rows.
        weight_bits: 2 to 8; activations have 8.

    Raises:
        PyprodError: the scheme or observer is unknown, or the calibration rows are empty or give no finite activation.
    """
    if weight_bits not in range(2, 9):
        raise PyprodError(f"weight_bits is 2 to 8, not {weight_bits}")
    if scheme == "dynamic":
        return dynamic_quantspec(model, weight_bits)
    if scheme != "static":
        raise PyprodError(f"scheme is dynamic or static, not {scheme!r}")
    return from_ranges(model, ranges(model, workload.calibration, observer), weight_bits)
