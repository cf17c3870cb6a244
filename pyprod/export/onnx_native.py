"""ONNX on our own kernels: as `onnx_fused`, each linear layer one node of the domain "pyprod", for ONNX Runtime."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from pyprod import discover
from pyprod.export import onnx_file, onnx_runtimes
from pyprod.export.ledger import layer_of, module_of
from pyprod.export.onnx_attention import fuse_attention
from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import Traced, trace
from pyprod.kernels import _library
from pyprod.kernels.gemm import PackedWeight, pack_weight
from pyprod.nn import int8_weight, linears, multiplier
from pyprod.types import PyprodError, QuantSpec, TensorQuant, Unavailable

SUFFIX = ".native.onnx"
NUMERICS = "simulated"

#: For ``SessionOptions.register_custom_ops_library``; needs ONNX Runtime 1.17 or newer, and neither torch nor Python.
LIBRARY = _library.LIBRARY.with_name("libpyprod_onnxruntime.so")

DOMAIN = "pyprod"
OPERATOR = "Int8Linear"

_PACKED = ".weight_packed"


def write(order: Order, path: Path) -> Written:
    """Write `path`.

    Raises:
        Unavailable: there is no QuantSpec, or it is not of linear layers with activations per token.
    """
    if order.quantspec is None:
        raise Unavailable("the model has no QuantSpec", 'give its recipe a step { step = "ptq", scheme = "dynamic" }')
    traced = trace(order.model, order.example, order.dimensions)
    model, layers, attention = lowered(traced, order.model, order.quantspec, order.opset)
    onnx_file.label(model, order.metadata)
    onnx_file.save(model, path, order.external_data)
    nodes = onnx_runtimes.optimized_nodes(path, order.threads, LIBRARY)
    facts = {"layers": layers, "attention": attention, "nodes": nodes}
    return Written(traced.axes, traced.fixed, {"opset": order.opset, **facts})


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """ONNX Runtime with and without its optimizations."""
    return onnx_runtimes.onnxruntime_readers(path, order.threads, LIBRARY)


def unrounded(order: Order, path: Path) -> tuple[dict[str, Reader], nn.Module]:
    """The file with our nodes as float products of the integers' values, and the model with such weights."""
    assert order.quantspec is not None
    model, reference = _expanded(onnx_file.load(path), order.model), copy.deepcopy(order.model)
    layers = dict(linears(reference))
    for name, quant in order.quantspec.weights.items():
        activation = order.quantspec.activations.get(name)
        q, scale = int8_weight(name, layers[name].weight, quant, activation)
        by = multiplier(activation)
        layers[name].weight.data = q * scale[:, None] * (1 if by is None else by)
    read = onnx_runtimes.onnxruntime(model.SerializeToString(), order.threads)
    return {"onnxruntime (activations in float)": read}, reference


def lowered(
    traced: Traced, source: nn.Module, quantspec: QuantSpec, opset: int = onnx_file.OPSET
) -> tuple[onnx.ModelProto, int, str]:
    """The file to be, how many layers run on our kernels, and how much attention is fused: "6 of 6 fused".

    Raises:
        Unavailable: a layer is no nn.Linear, or of a scheme that our kernel does not compute.
        PyprodError: a layer is not in the file.
    """
    model, program = onnx_file.convert(traced, opset)
    replaced, found = fuse_attention(model, program)
    count = _lower(model, source, quantspec)
    return model, count, f"{replaced} of {found} fused"


def _lower(model: onnx.ModelProto, source: nn.Module, quantspec: QuantSpec) -> int:
    """Make one node of each layer, its bias and its activation, in place."""
    graph, layers, done, count = model.graph, dict(linears(source)), set(), 0
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = constants | {  # a head that shares the embedding's table reads it transposed
        node.output[0]: constants[node.input[0]]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in constants
    }
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    for node in list(graph.node):
        if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in weights:
            continue
        name = next((name for name in (layer_of(node), module_of(node)) if name in quantspec.weights), None)
        if name is None:
            continue
        if name not in layers:
            raise Unavailable(f"{name} is no nn.Linear, and our operator is one", "use the format onnx_qdq")
        channels = [layers[name].out_features]
        vectors = {constant for constant, tensor in constants.items() if list(tensor.dims) == channels}
        chain = list(_chain(graph, node, vectors, reads))
        packed, scale = _integers(name, layers[name], quantspec, numpy_helper.to_array(weights[node.input[1]]))
        x = _multiplied(graph, node, name, quantspec.activations.get(name))
        inputs = [x, *_stored(graph, name, packed, scale), *_bias(chain, vectors)]
        made = helper.make_node(
            OPERATOR,
            inputs,
            [chain[-1].output[0]],
            name=node.name,
            domain=DOMAIN,
            activation=_activation(chain[-1]),
            quantization=_quantization(quantspec.activations.get(name)),
        )
        _replace(graph, chain, made)
        done.add(name)
        count += 1
    if missing := [name for name in quantspec.weights if name not in done]:
        raise PyprodError(discover.unknown("linear layer of the file", missing[0], done))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx_file.pruned(model)
    return count


def _quantization(activation: TensorQuant | None) -> str:
    return "asymmetric" if activation is not None and activation.asymmetric else "symmetric"


def _expanded(model: onnx.ModelProto, source: nn.Module) -> onnx.ModelProto:
    """Our nodes in ONNX's own operators, less the rounding of activations; changed in place."""
    graph, held = model.graph, {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.domain == DOMAIN:
            packed, scale = (torch.from_numpy(numpy_helper.to_array(held[name]).copy()) for name in node.input[1:3])
            layer = source.get_submodule(node.input[1].removesuffix(_PACKED))
            assert isinstance(layer, nn.Linear)
            weight = PackedWeight(packed, layer.out_features, layer.in_features).unpack() * scale[:, None]
            graph.initializer.append(numpy_helper.from_array(weight.T.contiguous().numpy(), f"{node.name}_weight"))
            nodes += _in_float(node)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return onnx_file.pruned(model)


def _in_float(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """x * weight, then the bias, then the activation."""
    steps: list[tuple[str, list[str], dict[str, str]]] = [("MatMul", [f"{node.name}_weight"], {})]
    if len(node.input) > 3:
        steps.append(("Add", [node.input[3]], {}))
    activation = next(a.s.decode() for a in node.attribute if a.name == "activation")
    if activation != "none":
        kind, approximate = {"gelu": ("Gelu", "none"), "gelu_tanh": ("Gelu", "tanh"), "relu": ("Relu", "")}[activation]
        steps.append((kind, [], {"approximate": approximate} if approximate else {}))
    value = node.input[0]
    for number, (kind, more, attributes) in enumerate(steps):
        to = node.output[0] if number == len(steps) - 1 else f"{node.name}_{number}"
        yield helper.make_node(kind, [value, *more], [to], **attributes)
        value = to


def _chain(
    graph: onnx.GraphProto, node: onnx.NodeProto, vectors: set[str], reads: Counter[str]
) -> Iterator[onnx.NodeProto]:
    """The product, and what of the nodes behind it our operator does as well; `vectors`: constants of a row's size."""
    yield node
    if node.op_type == "MatMul":
        reader = _only_reader(graph, node, reads)
        if reader is not None and reader.op_type == "Add" and _bias([node, reader], vectors):
            node = reader
            yield node
    reader = _only_reader(graph, node, reads)
    if reader is not None and reader.op_type in ("Gelu", "Relu"):
        yield reader


def _only_reader(graph: onnx.GraphProto, node: onnx.NodeProto, reads: Counter[str]) -> onnx.NodeProto | None:
    if reads[node.output[0]] != 1:
        return None
    return next((other for other in graph.node if node.output[0] in other.input), None)


def _bias(chain: list[onnx.NodeProto], vectors: set[str]) -> list[str]:
    """The name of the constant that is added to each row, if there is one."""
    first, names = chain[0], list(chain[0].input[2:])
    if first.op_type == "MatMul" and len(chain) > 1 and chain[1].op_type == "Add":
        names = [name for name in chain[1].input if name != first.output[0]]
    return [name for name in names if name in vectors]


def _activation(node: onnx.NodeProto) -> str:
    if node.op_type == "Gelu":
        tanh = any(a.name == "approximate" and a.s == b"tanh" for a in node.attribute)
        return "gelu_tanh" if tanh else "gelu"
    return "relu" if node.op_type == "Relu" else "none"


def _integers(name: str, layer: nn.Linear, quantspec: QuantSpec, seen: np.ndarray) -> tuple[Tensor, Tensor]:
    """The layer's weight as our kernel takes it, and the scale of each output channel."""
    weight = layer.weight.detach()
    if not any(np.array_equal(seen, own.numpy()) for own in (weight, weight.T)):
        raise PyprodError(f"{name}: the weight of the file is not the layer's")
    try:
        q, scale = int8_weight(name, weight, quantspec.weights[name], quantspec.activations.get(name))
    except PyprodError as error:
        raise Unavailable(str(error), 'use { step = "ptq", scheme = "dynamic" }') from error
    return pack_weight(q).data, scale


def _multiplied(graph: onnx.GraphProto, node: onnx.NodeProto, name: str, activation: TensorQuant | None) -> str:
    """What the layer reads, smoothed as the QuantSpec says: a product before `node`, one for all that want the same."""
    x, vector = str(node.input[0]), multiplier(activation)
    if vector is None:
        return x
    value, held = vector.numpy(), {tensor.name: tensor for tensor in graph.initializer}
    for other in graph.node:
        known = held.get(other.input[1]) if other.op_type == "Mul" and other.input[0] == x else None
        if known is not None and np.array_equal(numpy_helper.to_array(known), value):
            return str(other.output[0])
    constant, product = f"{name}.multiplier", f"{node.name}_multiplied"  # a layer may be used twice, a node is one
    if constant not in held:
        graph.initializer.append(numpy_helper.from_array(value, constant))
    made = helper.make_node("Mul", [x, constant], [product], name=product)
    graph.node.insert(list(graph.node).index(node), made)
    return product


def _stored(graph: onnx.GraphProto, name: str, packed: Tensor, scale: Tensor) -> list[str]:
    """Names of the two constants, which are stored once where two nodes read one layer."""
    names, held = [f"{name}{_PACKED}", f"{name}.weight_scale"], {tensor.name for tensor in graph.initializer}
    for constant, tensor in zip(names, (packed, scale), strict=True):
        if constant not in held:
            graph.initializer.append(numpy_helper.from_array(tensor.contiguous().numpy(), constant))
    return names


def _replace(graph: onnx.GraphProto, chain: list[onnx.NodeProto], made: onnx.NodeProto) -> None:
    """Put `made` where the chain begins: whatever reads its output comes after the chain's end."""
    place = list(graph.node).index(chain[0])
    for node in chain:
        graph.node.remove(node)
    graph.node.insert(place, made)
