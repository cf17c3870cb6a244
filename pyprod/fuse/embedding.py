"""``embedding(weight, ids)`` -> ``embedding(int8 weight, ids) * embedding(scale, ids)``: a scale for each row.

Rows are looked up, not multiplied: this is for the model's size, a quarter of which is left of the table.
"""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import arguments, call, constant, replace, shape, tensor
from pyprod.nn import channel_scale, quantize_weight
from pyprod.types import QuantSpec

aten = torch.ops.aten

#: Bytes of a table that are worth two more operators (5 us) in each call.
LEAST_BYTES = 1 << 20


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Only in a model that has layers in INT8; small tables stay as they are."""
    count = 0
    for node in module.graph.find_nodes(op="call_function", target=aten.embedding.default):
        given = arguments(node)
        weight, ids = given["weight"], given["indices"]
        if not quantspec.weights or weight.op != "get_attr" or 4 * shape(weight)[0] * shape(weight)[1] < LEAST_BYTES:
            continue
        values = tensor(module, weight)
        scale = channel_scale(values)
        name = f"{weight.target}.rows"
        q = constant(module, node, f"{name}.int8", quantize_weight(values, scale))
        scales = constant(module, node, f"{name}.scale", scale[:, None])
        rows, factors = (call(module, node, aten.embedding.default, table, ids) for table in (q, scales))
        replace(node, call(module, node, aten.mul.Tensor, rows, factors))
        count += 1
    return count
