"""``stack((a, b)).repeat_interleave(n).unbind()`` -> ``a.repeat_interleave(n), b.repeat_interleave(n)``.

A KV cache is laid out as one tensor; what reads keys and values of this step alone needs no copy of them.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from pyprod.fuse._graph import Argument, call, is_call, replace, shape
from pyprod.types import QuantSpec

aten = torch.ops.aten


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Take items out of a stack before it is made."""
    count = 0
    for item in module.graph.find_nodes(op="call_function", target=operator.getitem):
        unbind, index = item.args
        if not is_call(unbind, aten.unbind.int):
            continue
        dim = _dimension(unbind)
        source, repeat = unbind.args[0], None
        if is_call(source, aten.repeat_interleave.self_int) and source.args[2] != dim:
            repeat, source = source.args[1:3], source.args[0]
        made = _item(module, item, source, dim, index)
        if made is None:
            continue
        if repeat is not None:
            times, along = repeat
            made = call(module, item, aten.repeat_interleave.self_int, made, times, along - (along > dim))
        replace(item, made)
        count += 1
    return count


def _item(module: fx.GraphModule, before: fx.Node, source: Argument, dim: int, index: int) -> fx.Node | None:
    """``source.select(dim, index)`` where source is a stack along dim, or a concatenation of things along another."""
    if is_call(source, aten.stack.default) and _dimension(source) == dim:
        found: fx.Node = source.args[0][index]
        return found
    if is_call(source, aten.cat.default) and _dimension(source) != dim:
        parts = [_item(module, before, part, dim, index) for part in source.args[0]]
        selected = [
            made if made is not None else call(module, before, aten.select.int, part, dim, index)
            for made, part in zip(parts, source.args[0], strict=True)
        ]
        along = _dimension(source)
        return call(module, before, aten.cat.default, selected, along - (along > dim))
    return None


def _dimension(node: fx.Node) -> int:
    """The dimension that a stack, cat or unbind works along, counted from the front."""
    dim: int = node.args[1] if len(node.args) > 1 else 0
    return dim if dim >= 0 else dim + len(shape(node.args[0] if is_call(node, aten.unbind.int) else node))
