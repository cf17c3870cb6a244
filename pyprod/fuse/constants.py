"""``add(slice(positions, 0, 128), select(types, 0))`` -> its value: what no input changes is computed once.

For inputs shaped like the example that is so. Of the encoder's table of positions a quarter is left.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from pyprod.fuse._graph import constant, is_call, replace, tensor
from pyprod.types import QuantSpec

aten = torch.ops.aten
AFTER = ("attention", "embedding", "norm", "residual", "static")  # which know their constants by where they come from


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Only in a model that has layers in INT8, and where the value takes no more memory than what it comes from."""
    if not quantspec.weights:
        return 0
    values, count = _values(module), 0
    copies: dict[tuple[object, ...], Tensor] = {}
    for node in [n for n in values if n.op == "call_function" and not values.keys() >= n.users.keys()]:
        read = {leaf for leaf in _leaves(node) if values.keys() >= leaf.users.keys()}
        if _bytes(values[node]) <= sum(_bytes(values[leaf]) for leaf in read):
            replace(node, constant(module, node, f"{node.name}.value", _copied(values[node], copies)))
            count += 1
    return count


def _values(module: fx.GraphModule) -> dict[fx.Node, Tensor]:
    """Of all nodes that depend on no input and give a tensor; not of those at the end that repeat one.

    What `expand` gives takes no memory until it is stored.
    """
    values: dict[fx.Node, Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = tensor(module, node)
        elif node.op == "call_function" and node.all_input_nodes and values.keys() >= set(node.all_input_nodes):
            with torch.no_grad():
                value = node.target(*fx.map_arg(node.args, values.get), **fx.map_arg(node.kwargs, values.get))
            if isinstance(value, Tensor):
                values[node] = value
    for node in [node for node in reversed(values) if is_call(node, aten.expand.default)]:
        if not values.keys() >= node.users.keys():
            del values[node]
    return values


def _copied(value: Tensor, copies: dict[tuple[object, ...], Tensor]) -> Tensor:
    """With storage of its own, as files of weights need it; one for all that show the same part of the same tensor."""
    shown = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
    return copies.setdefault(shown, value.clone(memory_format=torch.contiguous_format))


def _leaves(node: fx.Node) -> set[fx.Node]:
    if node.op == "get_attr":
        return {node}
    return set().union(*(_leaves(source) for source in node.all_input_nodes))


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()
