"""``linear(silu(gate) * up)`` -> ``int8_linear_prequantized(silu_mul_quantize(gate, up))``."""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import call, feed_quantized, is_call, items, only_user, quantized_linears, shape
from pyprod.types import QuantSpec

AFTER = ("linear",)

aten, ours = torch.ops.aten, torch.ops.pyprod


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """One pass over gate and up instead of five."""
    count = 0
    for silu in module.graph.find_nodes(op="call_function", target=aten.silu.default):
        mul = only_user(silu)
        if mul is None or not is_call(mul, aten.mul.Tensor) or len(quantized_linears(mul)) != len(mul.users):
            continue
        gate, up = silu.args[0], mul.args[1] if mul.args[0] is silu else mul.args[0]
        if not isinstance(up, fx.Node) or up is silu or shape(up) != shape(gate):
            continue
        q, scale = items(module, mul, call(module, mul, ours.silu_mul_quantize.default, gate, up))
        feed_quantized(module, quantized_linears(mul), q, scale)
        count += 1
    return count
