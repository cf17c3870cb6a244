"""``add(int8_linear(x), r)`` -> ``int8_linear(x, residual=r)``, where no norm took the sum."""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import arguments, dtype, is_call, only_user, replace, set_arguments, shape
from pyprod.types import QuantSpec

AFTER = ("norm",)

aten, ours = torch.ops.aten, torch.ops.pyprod

_LINEARS = (ours.int8_linear.default, ours.int8_linear_prequantized.default)


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Add to the accumulators, before they are written."""
    count = 0
    for linear in [node for node in module.graph.nodes if is_call(node, *_LINEARS)]:
        add = only_user(linear)
        if not is_call(add, aten.add.Tensor) or add.kwargs or arguments(linear)["residual"]:
            continue
        other = add.args[1] if add.args[0] is linear else add.args[0]
        if not isinstance(other, fx.Node) or shape(other) != shape(linear) or dtype(other) != dtype(linear):
            continue
        add.prepend(linear)  # the other summand may be computed after the linear stood
        set_arguments(linear, residual=other)
        replace(add, linear)
        count += 1
    return count
