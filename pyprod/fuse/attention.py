"""``scaled_dot_product_attention(q, k, v)`` and the joining of its heads -> ``int8_attention``.

Heads of a merged projection are read where they lie, and keys that several query heads share are not repeated.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from pyprod.fuse._graph import Argument, arguments, call, is_call, only_user, replace, shape
from pyprod.types import QuantSpec

AFTER = ("merge", "unstack")

aten, ours = torch.ops.aten, torch.ops.pyprod


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Only in a model that has layers in INT8."""
    count = 0
    for node in module.graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default):
        given, joined = arguments(node), _joined_heads(node)
        q, k, v = (given[name] for name in ("query", "key", "value"))
        if joined is None or given["dropout_p"] or len(shape(q)) != 4 or not quantspec.weights:
            continue
        if shape(q)[3] != shape(v)[3] or given["enable_gqa"]:
            continue
        shared = _repeated(k), _repeated(v)
        if all(shared) and shape(shared[0]) == shape(shared[1]):
            k, v = shared
        options = (given["attn_mask"], given["is_causal"], given["scale"])
        packed = _merged_projection(q, k, v)
        if packed is not None:
            heads = (shape(q)[1], shape(k)[1])
            made = call(module, joined, ours.int8_attention_packed.default, packed, *heads, *options)
        else:
            made = call(module, joined, ours.int8_attention.default, q, k, v, *options)
        replace(joined, made)
        _erase_chain(node)
        count += 1
    return count


def _joined_heads(attention: fx.Node) -> fx.Node | None:
    """``attention.transpose(1, 2)`` as ``[b, s, h * d]``, or None when something else reads it."""
    transposed = only_user(attention)
    if not is_call(transposed, aten.transpose.int) or transposed.args[1:] != (1, 2):
        return None
    joined, (b, h, s, d) = only_user(transposed), shape(attention)
    if is_call(joined, aten.contiguous.default, aten.clone.default):
        joined = only_user(joined)
    flat = is_call(joined, aten.flatten.using_ints, aten.reshape.default, aten.view.default, aten._unsafe_view.default)
    return joined if flat and shape(joined) == (b, s, h * d) else None


def _merged_projection(q: fx.Node, k: fx.Node, v: fx.Node) -> fx.Node | None:
    """The tensor ``[b, s, (h + 2 kv) d]`` that q, k and v are parts of, in this order and nothing between them."""
    parts = [_part(node) for node in (q, k, v)]
    if not all(parts):
        return None
    splits, indices = zip(*parts, strict=True)
    if indices != (0, 1, 2) or len(set(splits)) > 1 or len(splits[0].args[1]) != 3:
        return None
    source: fx.Node = splits[0].args[0]
    return source


def _part(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The split that ``split[i].view(b, s, h, d).transpose(1, 2)`` is a part of, and i."""
    if not is_call(node, aten.transpose.int) or node.args[1:] != (1, 2):
        return None
    view, (b, h, s, d) = node.args[0], shape(node)
    if not is_call(view, aten.view.default, aten.reshape.default) or shape(view) != (b, s, h, d):
        return None
    item = view.args[0]
    if not is_call(item, operator.getitem) or not is_call(item.args[0], aten.split_with_sizes.default):
        return None
    return (item.args[0], item.args[1]) if shape(item) == (b, s, h * d) else None


def _repeated(node: Argument) -> fx.Node | None:
    """The heads that ``repeat_interleave(heads, n, 1)`` repeats."""
    if is_call(node, aten.repeat_interleave.self_int) and node.args[2] == 1:
        found: fx.Node = node.args[0]
        return found
    return None


def _erase_chain(node: fx.Node) -> None:
    """Erase a node and what only it feeds; not left to dead code elimination, since attention may draw numbers."""
    for user in list(node.users):
        _erase_chain(user)
    node.graph.erase_node(node)
