"""``x * rsqrt(mean(x ** 2) + eps) * weight``, spelled out -> ``rms_norm(x, weight, eps)``."""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import Argument, call, is_call, replace, shape
from pyprod.types import QuantSpec

aten = torch.ops.aten


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Give the norm one name, whoever spelled it out."""
    count = 0
    for weighted in module.graph.find_nodes(op="call_function", target=aten.mul.Tensor):
        for normed, weight in (weighted.args, weighted.args[::-1]):
            found = _normalized(normed)
            if found and isinstance(weight, fx.Node) and weight.op == "get_attr" and len(shape(weight)) == 1:
                x, eps = found
                replace(weighted, call(module, weighted, aten.rms_norm.default, x, [shape(x)[-1]], weight, eps))
                count += 1
                break
    return count


def _normalized(node: Argument) -> tuple[fx.Node, float] | None:
    """x and eps of ``x * rsqrt(mean(x ** 2, -1, keepdim=True) + eps)``."""
    if not is_call(node, aten.mul.Tensor):
        return None
    for x, factor in (node.args, node.args[::-1]):
        add = factor.args[0] if is_call(factor, aten.rsqrt.default) else None
        if not is_call(add, aten.add.Tensor) or not isinstance(add.args[1], float):
            continue
        mean = add.args[0]
        if is_call(mean, aten.mean.dim) and mean.args[1:] == ([-1], True) and _squared(mean.args[0]) is x:
            return x, add.args[1]
    return None


def _squared(node: Argument) -> Argument:
    if is_call(node, aten.square.default) or (is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == 2):
        return node.args[0]
    return None
