"""Linears that read the same values (query, key, value; gate, up) -> one, whose output is split."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, fx

from pyprod.fuse._graph import arguments, call, constant, items, linears_by_multiplier, replace, shape, tensor
from pyprod.kernels.gemm import PackedWeight, pack_weight
from pyprod.types import QuantSpec

AFTER = ("activation",)

aten, ours = torch.ops.aten, torch.ops.pyprod


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Quantize the input once, and give the threads one larger product to share."""
    count = 0
    for node in list(module.graph.nodes):
        alike = chain.from_iterable(linears_by_multiplier(node, shifted).values() for shifted in (False, True))
        for linears in alike:
            siblings = [linear for linear in linears if _plain(linear)]
            if len(siblings) > 1:
                _merge(module, siblings)
                count += 1
    return count


def _plain(linear: fx.Node) -> bool:
    given = arguments(linear)
    return not (given["activation"] or given["residual"] or given["out_dtype"])


def _merge(module: fx.GraphModule, siblings: list[fx.Node]) -> None:
    first, given = siblings[0], [arguments(linear) for linear in siblings]
    name = "_".join(str(a["packed"].target).removesuffix("_packed") for a in given)
    weights = [PackedWeight(tensor(module, a["packed"]), a["n"], a["k"]).unpack() for a in given]
    packed = pack_weight(torch.cat(weights))
    data = constant(module, first, f"{name}.packed", packed.data)
    scale = constant(module, first, f"{name}.scale", torch.cat([tensor(module, a["w_scale"]) for a in given]))
    bias = None
    if any(a["bias"] for a in given):
        bias = constant(module, first, f"{name}.bias", torch.cat([_bias(module, a["bias"], a["n"]) for a in given]))
    args = (given[0]["x"], data, packed.n, packed.k, scale, bias, None, None, None)
    merged = call(module, first, ours.int8_linear.default, *args, given[0]["multiplier"], given[0]["asymmetric"])
    sizes = [a["n"] for a in given]
    parts = call(module, first, aten.split_with_sizes.default, merged, sizes, len(shape(merged)) - 1)
    for linear, part in zip(siblings, items(module, first, parts), strict=True):
        replace(linear, part)


def _bias(module: fx.GraphModule, node: fx.Node | None, n: int) -> Tensor:
    return tensor(module, node) if node else torch.zeros(n)
