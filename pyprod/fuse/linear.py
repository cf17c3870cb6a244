"""``linear(x, weight, bias)`` of a layer that the QuantSpec names -> ``int8_linear(x, packed, scale, bias)``.

A weight per group becomes ``int4_linear(x, packed, bias)``, which no other pass merges with what surrounds it.
Where the QuantSpec smooths a layer's input, a multiplier does: one constant for all layers that want the same of an x.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from pyprod.fuse._graph import arguments, call, constant, replace, tensor
from pyprod.kernels.gemm import pack_weight
from pyprod.kernels.int4_linear import pack_int4_weight
from pyprod.nn import int4_weight, int8_weight, multiplier
from pyprod.types import QuantSpec, TensorQuant

aten, ours = torch.ops.aten, torch.ops.pyprod
AFTER = ("static",)  # which takes the layers whose activations have static scales


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Quantize per token on the fly, weights packed once."""
    count = 0
    names: dict[tuple[fx.Node, tuple[float, ...]], str] = {}  # of multipliers
    for node in module.graph.find_nodes(op="call_function", target=aten.linear.default):
        weight = arguments(node)["weight"]
        name = str(weight.target).removesuffix(".weight")
        if weight.op != "get_attr" or name not in quantspec.weights:
            continue
        quant, activation = quantspec.weights[name], quantspec.activations.get(name)
        by = None
        if (vector := multiplier(activation)) is not None and activation is not None:
            shared = names.setdefault((arguments(node)["input"], activation.smoothing), f"{name}.multiplier")
            by = constant(module, node, shared, vector)
        lower = _int4 if quant.granularity == "per_group" else _int8
        replace(node, lower(module, node, name, tensor(module, weight).float(), quant, activation, by))
        count += 1
    return count


def _int8(
    module: fx.GraphModule,
    node: fx.Node,
    name: str,
    weight: Tensor,
    quant: TensorQuant,
    activation: TensorQuant | None,
    by: fx.Node | None,
) -> fx.Node:
    q, scale = int8_weight(name, weight, quant, activation)
    packed = pack_weight(q)
    data = constant(module, node, f"{name}.packed", packed.data)
    scales = constant(module, node, f"{name}.scale", scale)
    x, bias = (arguments(node)[argument] for argument in ("input", "bias"))
    shape = (packed.n, packed.k)
    shifted = activation is not None and activation.asymmetric
    return call(module, node, ours.int8_linear.default, x, data, *shape, scales, bias, None, None, None, by, shifted)


def _int4(
    module: fx.GraphModule,
    node: fx.Node,
    name: str,
    weight: Tensor,
    quant: TensorQuant,
    activation: TensorQuant | None,
    by: fx.Node | None,
) -> fx.Node:
    packed = pack_int4_weight(int4_weight(name, weight, quant, activation))
    data = constant(module, node, f"{name}.packed", packed.data)
    x, bias = (arguments(node)[argument] for argument in ("input", "bias"))
    if by is not None:
        x = call(module, node, aten.mul.Tensor, x, by)
    shape = (packed.n, packed.k, packed.group_size, packed.zeros)
    return call(module, node, ours.int4_linear.default, x, data, *shape, bias)
