"""``linear(x, weight, bias)`` of a layer that the QuantSpec names -> ``int8_linear(x, packed, scale, bias)``."""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import arguments, call, constant, replace, tensor
from pyprod.kernels.gemm import pack_weight
from pyprod.nn import linear_scale, quantize_weight
from pyprod.types import QuantSpec

aten, ours = torch.ops.aten, torch.ops.pyprod
AFTER = ("cnn",)  # which takes the linear layers of a network that it can run whole


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Quantize per token on the fly, weights packed once."""
    count = 0
    for node in module.graph.find_nodes(op="call_function", target=aten.linear.default):
        x, weight, bias = (arguments(node)[name] for name in ("input", "weight", "bias"))
        name = str(weight.target).removesuffix(".weight")
        if weight.op != "get_attr" or name not in quantspec.weights:
            continue
        values = tensor(module, weight).float()
        quant = quantspec.weights[name]
        scale = linear_scale(name, values, quant, quantspec.activations.get(name))
        packed = pack_weight(quantize_weight(values, scale, quant.bits))
        data = constant(module, node, f"{name}.packed", packed.data)
        scales = constant(module, node, f"{name}.scale", scale)
        made = call(module, node, ours.int8_linear.default, x, data, packed.n, packed.k, scales, bias, None, None, None)
        replace(node, made)
        count += 1
    return count
