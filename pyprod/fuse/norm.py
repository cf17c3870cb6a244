"""``linear(norm(x + residual))`` -> ``int8_linear_prequantized(add_norm_quantize(x, residual))``, for both norms.

The sum (of a pre-norm block) or the normalized row (of a post-norm block) that something else reads is returned too.
A layer norm's channels are multiplied there as well, where linears alone want that.
"""

from __future__ import annotations

import torch
from torch import fx

from pyprod.fuse._graph import arguments, call, dtype, feed_quantized, is_call, items, linears_by_multiplier, shape
from pyprod.types import QuantSpec

AFTER = ("merge", "rms_norm")

aten, ours = torch.ops.aten, torch.ops.pyprod

_NORMS = {
    aten.layer_norm.default: (ours.layer_norm_quantize, ours.add_layer_norm_quantize, ours.add_layer_norm),
    aten.rms_norm.default: (ours.rms_norm_quantize, ours.add_rms_norm_quantize, ours.add_rms_norm),
}


def rewrite(module: fx.GraphModule, quantspec: QuantSpec) -> int:
    """Sum, normalize and quantize a row while it is in registers."""
    norms = [node for node in module.graph.nodes if is_call(node, *_NORMS) and _last_dimension_only(node)]
    return sum(_fuse(module, norm) for norm in norms)


def _last_dimension_only(norm: fx.Node) -> bool:
    given = arguments(norm)
    return len(given["normalized_shape"]) == 1 and given["weight"] is not None and given["eps"] is not None


def _fuse(module: fx.GraphModule, norm: fx.Node) -> bool:
    given, (alone, added, unquantized) = arguments(norm), _NORMS[norm.target]
    affine = [given[name] for name in ("weight", "bias") if name in given]
    linears, multiplier = _linears(norm)
    total, read_elsewhere = given["input"], len(linears) < len(norm.users)
    if not _is_sum(total, norm) or (read_elsewhere and len(total.users) > 1):
        if not linears or read_elsewhere:
            return False
        made = call(module, norm, alone.default, total, *affine, given["eps"], *multiplier)
        feed_quantized(module, linears, *items(module, norm, made))
        return True
    summands = _summands(module, norm, total)
    if not linears:
        made = call(module, norm, unquantized.default, *summands, *affine, given["eps"])
        normalized, total_node = items(module, norm, made)
        norm.replace_all_uses_with(normalized)
        total.replace_all_uses_with(total_node, delete_user_cb=lambda user: user is not made and user is not norm)
        return True
    keep = "normalized" if read_elsewhere else "sum"
    made = call(module, norm, added.default, *summands, *affine, given["eps"], keep, *multiplier)
    q, scale, kept = items(module, norm, made)
    feed_quantized(module, linears, q, scale)
    (norm if read_elsewhere else total).replace_all_uses_with(kept, delete_user_cb=lambda user: user is not norm)
    return True


def _linears(norm: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """Those that take one quantized row, and the vector that multiplies the norm's channels before, if one does."""
    found = linears_by_multiplier(norm)
    if "" in found or not found or norm.target is not aten.layer_norm.default:
        return found.get("", []), []
    linears = next(iter(found.values()))
    multiplier = arguments(linears[0])["multiplier"]
    norm.prepend(multiplier)
    return linears, [multiplier]


def _is_sum(node: fx.Node, norm: fx.Node) -> bool:
    """Whether `node` adds to a tensor of its own shape, and nothing before `norm` reads the sum."""
    if (
        not is_call(node, aten.add.Tensor)
        or node.kwargs
        or len(node.args) != 2
        or any(user < norm for user in node.users)
    ):
        return False
    floats = all(isinstance(a, fx.Node) and dtype(a) == dtype(node) for a in node.args)
    return floats and any(shape(a) == shape(node) for a in node.args)


def _summands(module: fx.GraphModule, norm: fx.Node, total: fx.Node) -> list[fx.Node]:
    """Both in the shape of the sum, which one of them may be repeated for (the positions of a batch)."""
    summands = sorted(total.args, key=lambda a: shape(a) != shape(total))
    return [
        a if shape(a) == shape(total) else call(module, norm, aten.expand.default, a, list(shape(total)))
        for a in summands
    ]
