"""``embedding(weight, ids)`` -> ``embedding(int8 weight, ids) * embedding(scale, ids)``: a scale for each row.

Rows are looked up, not multiplied: this is for the model's size, a quarter of which is left of the table. Scales are
float16, which rows are rounded by: that costs them nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from pyprod.fuse._graph import arguments, call, constant, replace, shape, tensor
from pyprod.nn import channel_scale, quantize_weight
from pyprod.types import QuantSpec

aten = torch.ops.aten

#: Bytes of a table that are worth three more operators (13 us for 128 ids of 384 channels) in each call.
LEAST_BYTES = 1 << 20

_HALF, _FLOAT = torch.finfo(torch.float16), torch.finfo(torch.float32)


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Only in a model that has layers in INT8; small tables stay as they are."""
    count = 0
    for node in module.graph.find_nodes(op="call_function", target=aten.embedding.default):
        given = arguments(node)
        weight, ids = given["weight"], given["indices"]
        if not quantspec.weights or weight.op != "get_attr" or 4 * shape(weight)[0] * shape(weight)[1] < LEAST_BYTES:
            continue
        values = tensor(module, weight)
        scale = _row_scale(values)
        name = f"{weight.target}.rows"
        q = constant(module, node, f"{name}.int8", quantize_weight(values, scale.float()))
        scales = constant(module, node, f"{name}.scale", scale[:, None])
        rows, factors = (call(module, node, aten.embedding.default, table, ids) for table in (q, scales))
        if scale.dtype != values.dtype:
            factors = call(module, node, aten.to.dtype, factors, values.dtype)
        replace(node, call(module, node, aten.mul.Tensor, rows, factors))
        count += 1
    return count


def _row_scale(values: Tensor) -> Tensor:
    """A scale for each row, in float16 unless that is too coarse for one of them or too small."""
    scale = channel_scale(values)
    fits = ((scale >= _HALF.tiny) & (scale <= _HALF.max)) | (scale == _FLOAT.tiny)  # a row of zeros has any
    return scale.clamp(min=_HALF.tiny).half() if bool(fits.all()) else scale
