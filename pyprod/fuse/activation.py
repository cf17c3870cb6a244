"""``gelu(int8_linear(x))`` (also relu, silu) -> ``int8_linear(x, activation="gelu")``."""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import arguments, only_user, replace, set_arguments
from pyprod.types import QuantSpec

AFTER = ("gated",)  # which takes the silu of a gate

aten, ours = torch.ops.aten, torch.ops.pyprod


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Apply the activation to the accumulators, before they are written."""
    count = 0
    for linear in module.graph.find_nodes(op="call_function", target=ours.int8_linear.default):
        user = only_user(linear)
        name = _name(user) if user else None
        given = arguments(linear)
        if name is None or given["activation"] or given["residual"]:
            continue
        set_arguments(linear, activation=name)
        replace(user, linear)
        count += 1
    return count


def _name(node: fx.Node) -> str | None:
    """The activation as int8_linear calls it."""
    if node.target == aten.gelu.default:
        return "gelu_tanh" if arguments(node)["approximate"] == "tanh" else "gelu"
    if node.target == aten.relu.default:
        return "relu"
    return "silu" if node.target == aten.silu.default else None
