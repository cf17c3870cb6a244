"""``int8_attention_packed(int8_linear_prequantized(q, scale, ...), ...)`` -> ``int8_self_attention(q, scale, ...)``."""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import arguments, call, is_call, only_user, replace
from pyprod.types import QuantSpec

AFTER = ("attention", "norm")

ours = torch.ops.pyprod


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """A sample's queries, keys and values are read while they are in the core's cache."""
    count = 0
    for node in module.graph.find_nodes(op="call_function", target=ours.int8_attention_packed.default):
        attention = arguments(node)
        projection = attention["qkv"]
        if not is_call(projection, ours.int8_linear_prequantized.default) or only_user(projection) is not node:
            continue
        layer = arguments(projection)
        if layer["activation"] or layer["residual"] or layer["out_dtype"]:
            continue
        rows = (layer["q"], layer["scale"])
        weights = (layer["packed"], layer["n"], layer["k"], layer["w_scale"], layer["bias"])
        heads = (attention["heads"], attention["kv_heads"])
        options = (attention["mask"], attention["causal"], attention["scale"])
        replace(node, call(module, node, ours.int8_self_attention.default, *rows, *weights, *heads, *options))
        count += 1
    return count
