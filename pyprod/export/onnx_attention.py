"""Attention as one node of ONNX Runtime's own: its optimizer does not recognize what the modern exporter writes.

The exporter marks each node with the node of the program that it came from, so that nothing has to be recognized:
the nodes of a scaled_dot_product_attention are taken out, and com.microsoft.MultiHeadAttention put in their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import fx

from pyprod.export.ledger import program_node

_DOMAIN = "com.microsoft"
_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def fuse_attention(model: onnx.ModelProto, program: torch.export.ExportedProgram) -> tuple[int, int]:
    """Replace each attention in place; what is masked in another way than by key or bias stays as it is.

    Returns:
        How many were replaced, and how many there are.
    """
    found = [node for node in program.graph.nodes if node.target is _ATTENTION]
    signature, replaced = program.graph_signature, 0
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}  # the file has these by their own names
    for node in found:
        nodes = list(_replacement(model, node))
        replaced += bool(nodes)
        if nodes:
            for made in nodes:
                made.input[:] = [names.get(name, name) for name in made.input]
            _swap(model, node.name, nodes)
    if replaced:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return replaced, len(found)


def _replacement(model: onnx.ModelProto, node: fx.Node) -> Iterator[onnx.NodeProto]:
    """Nodes that compute the attention; none where MultiHeadAttention does not compute it."""
    query, key, value = node.args[:3]
    assert isinstance(query, fx.Node)
    assert isinstance(key, fx.Node)
    assert isinstance(value, fx.Node)
    options = dict(zip(("attn_mask", "dropout_p", "is_causal"), node.args[3:], strict=False)) | node.kwargs
    shape, mask = query.meta["val"].shape, options.get("attn_mask")
    alike = all(x.meta["val"].dim() == 4 and x.meta["val"].shape[1] == shape[1] for x in (query, key, value))
    heads, width = shape[1], shape[-1]
    if not alike or not isinstance(heads, int) or options.get("dropout_p") or _is_unknown(mask):
        return
    name, flat = node.name, []
    for role, x in (("query", query), ("key", key), ("value", value)):
        source = _before_heads(model, x)
        if source is None:
            source = f"{name}_{role}"
            yield helper.make_node("Transpose", [x.name], [f"{source}_rows"], perm=[0, 2, 1, 3])
            yield helper.make_node("Reshape", [f"{source}_rows", _constant(model, (0, 0, -1))], [source])
        flat.append(source)
    padding = bias = ""
    if mask is not None:
        assert isinstance(mask, fx.Node)
        if mask.meta["val"].dtype == torch.bool:
            padding = f"{name}_padding"
            yield helper.make_node("Reshape", [mask.name, _constant(model, (0, -1))], [f"{name}_keys"])
            yield helper.make_node("Cast", [f"{name}_keys"], [padding], to=onnx.TensorProto.INT32)
        else:
            bias = mask.name
    attributes: dict[str, int | float] = {"num_heads": heads, "unidirectional": int(bool(options.get("is_causal")))}
    if isinstance(scale := options.get("scale"), float):
        attributes["scale"] = scale
    reads = [*flat, "", padding, bias]
    yield helper.make_node("MultiHeadAttention", reads, [f"{name}_flat"], name=name, domain=_DOMAIN, **attributes)
    yield helper.make_node("Reshape", [f"{name}_flat", _constant(model, (0, 0, heads, width))], [f"{name}_heads"])
    yield helper.make_node("Transpose", [f"{name}_heads"], [name], perm=[0, 2, 1, 3])


def _is_unknown(mask: object) -> bool:
    """Whether it is neither absent, nor a bias, nor boolean and the same for each query."""
    if not isinstance(mask, fx.Node):
        return mask is not None
    tensor = mask.meta["val"]
    return bool(tensor.dim() != 4 or (tensor.dtype == torch.bool and (tensor.shape[1], tensor.shape[2]) != (1, 1)))


def _before_heads(model: onnx.ModelProto, x: fx.Node) -> str | None:
    """``[b, t, heads * width]`` that `x` ``[b, heads, t, width]`` is a view of, where the file has it."""
    if x.target is not torch.ops.aten.transpose.int or x.args[1:] not in ((1, 2), (2, 1)):
        return None
    view = x.args[0]
    if not isinstance(view, fx.Node) or view.target is not torch.ops.aten.view.default:
        return None
    source = view.args[0]
    assert isinstance(source, fx.Node)
    known = any(source.name in node.output for node in model.graph.node)
    return source.name if known and source.meta["val"].dim() == 3 else None


def _constant(model: onnx.ModelProto, values: tuple[int, ...]) -> str:
    """The name of an initializer of these int64 values, made when first asked for."""
    name = "shape_" + "_".join(str(value) for value in values)
    if all(tensor.name != name for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def _swap(model: onnx.ModelProto, name: str, replacement: Iterable[onnx.NodeProto]) -> None:
    """Put nodes in the place of those that came from the program's node `name`."""
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if program_node(node) != name:
            kept.append(node)
        elif name in node.output:
            kept += replacement
    del model.graph.node[:]
    model.graph.node.extend(kept)
