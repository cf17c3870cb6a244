"""``linear(x, weight, bias)`` of a layer that the QuantSpec names -> ``int8_linear(x, packed, scale, bias)``.

A weight per group becomes ``int4_linear(x, packed, bias)``, which no other pass merges with what surrounds it.
Where the QuantSpec smooths the layer's input, it reads ``mul(x, multiplier)``, one for all layers that want the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from pyprod.fuse._graph import arguments, call, constant, replace, set_arguments, tensor
from pyprod.kernels.gemm import pack_weight
from pyprod.kernels.int4_linear import pack_int4_weight
from pyprod.nn import int4_weight, int8_weight, multiplier
from pyprod.types import QuantSpec, TensorQuant

aten, ours = torch.ops.aten, torch.ops.pyprod
AFTER = ("static",)  # which takes the layers whose activations have static scales


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Quantize per token on the fly, weights packed once."""
    count = 0
    multiplied: dict[tuple[fx.Node, tuple[float, ...]], fx.Node] = {}
    for node in module.graph.find_nodes(op="call_function", target=aten.linear.default):
        weight = arguments(node)["weight"]
        name = str(weight.target).removesuffix(".weight")
        if weight.op != "get_attr" or name not in quantspec.weights:
            continue
        quant, activation = quantspec.weights[name], quantspec.activations.get(name)
        if activation and activation.smoothing:
            wanted = (arguments(node)["input"], activation.smoothing)
            if wanted not in multiplied:
                multiplied[wanted] = _multiplied(module, node, name, activation)
            set_arguments(node, input=multiplied[wanted])
        lower = _int4 if quant.granularity == "per_group" else _int8
        replace(node, lower(module, node, name, tensor(module, weight).float(), quant, activation))
        count += 1
    return count


def _multiplied(module: fx.GraphModule, node: fx.Node, name: str, activation: TensorQuant) -> fx.Node:
    """The input of the linear `node`, its channels multiplied as the smoothing says."""
    vector = multiplier(activation)
    assert vector is not None
    by = constant(module, node, f"{name}.multiplier", vector)
    return call(module, node, aten.mul.Tensor, arguments(node)["input"], by)


def _int8(
    module: fx.GraphModule, node: fx.Node, name: str, weight: Tensor, quant: TensorQuant, activation: TensorQuant | None
) -> fx.Node:
    q, scale = int8_weight(name, weight, quant, activation)
    packed = pack_weight(q)
    data = constant(module, node, f"{name}.packed", packed.data)
    scales = constant(module, node, f"{name}.scale", scale)
    x, bias = (arguments(node)[argument] for argument in ("input", "bias"))
    return call(module, node, ours.int8_linear.default, x, data, packed.n, packed.k, scales, bias, None, None, None)


def _int4(
    module: fx.GraphModule, node: fx.Node, name: str, weight: Tensor, quant: TensorQuant, activation: TensorQuant | None
) -> fx.Node:
    packed = pack_int4_weight(int4_weight(name, weight, quant, activation))
    data = constant(module, node, f"{name}.packed", packed.data)
    x, bias = (arguments(node)[argument] for argument in ("input", "bias"))
    shape = (packed.n, packed.k, packed.group_size, packed.zeros)
    return call(module, node, ours.int4_linear.default, x, data, *shape, bias)
