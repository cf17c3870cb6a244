"""ONNX in integers: a QuantSpec as QuantizeLinear and DequantizeLinear, which every ONNX runtime takes for INT8."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from pyprod import discover
from pyprod.export import onnx_file, onnx_runtimes
from pyprod.export.ledger import layer_of, transposed
from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import Traced, trace
from pyprod.nn import channel_scale, quantize_weight
from pyprod.types import PyprodError, QuantSpec, TensorQuant, Unavailable

SUFFIX = ".int8.onnx"
NUMERICS = "simulated"

#: Operators with a weight as their second input, and the weight's axis of output channels.
_CHANNELS = {"Conv": 0, "Gemm": 0, "MatMul": 1}


def write(order: Order, path: Path) -> Written:
    """Write `path`: weights stored as int8, activations rounded as the QuantSpec says.

    Raises:
        Unavailable: there is no QuantSpec, or one that QDQ can't express: activations per token.
    """
    if order.quantspec is None:
        raise Unavailable("the model has no QuantSpec", 'give its recipe a step { step = "ptq", scheme = "static" }')
    traced = trace(order.model, order.example, order.dimensions)
    model, layers = lowered(traced, order.model, order.quantspec, order.opset)
    onnx_file.label(model, order.metadata)
    onnx_file.save(model, path, order.external_data)
    facts = {"layers": layers, "nodes": onnx_runtimes.optimized_nodes(path, order.threads)}
    return Written(traced.axes, traced.fixed, {"opset": order.opset, **facts})


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """ONNX Runtime with and without its optimizations (in integers, and in float32 with rounding), OpenVINO."""
    return onnx_runtimes.readers(path, order.threads)


def lowered(
    traced: Traced, source: nn.Module, quantspec: QuantSpec, opset: int = onnx_file.OPSET
) -> tuple[onnx.ModelProto, int]:
    """The file to be, and how many layers read integers.

    Raises:
        Unavailable, PyprodError: see `quantize`.
    """
    model = onnx_file.convert(traced, opset).model
    return model, quantize(model, source, quantspec)


def quantize(model: onnx.ModelProto, source: nn.Module, quantspec: QuantSpec) -> int:
    """Put a pair of Q and DQ before each layer that `quantspec` names, and its weight into int8; in place.

    Returns:
        The number of nodes that now read integers.

    Raises:
        Unavailable: a scheme is none of static activations per tensor and symmetric 8-bit weights.
        PyprodError: a layer is not in the file.
    """
    graph = _Graph(model)
    count = 0
    for node in graph.nodes:
        name = layer_of(node) if node.op_type in _CHANNELS else ""
        if name in quantspec.weights and node.input[1] in graph.constants:
            layer = source.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            _layer(graph, node, layer, quantspec.weights[name], _checked(name, quantspec))
            graph.done.add(name)
            count += 1
        graph.made.append(node)
    for name in quantspec.weights:
        if name not in graph.done:
            raise PyprodError(discover.unknown("layer of the file", name, graph.done))
    graph.finish()
    return count


@dataclass
class _Graph:
    """The graph while it is made anew."""

    model: onnx.ModelProto
    made: list[onnx.NodeProto] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    rounded: dict[tuple[str, TensorQuant], str] = field(default_factory=dict)  # an activation that two layers read

    def __post_init__(self) -> None:
        self.nodes = list(self.model.graph.node)
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}

    def constant(self, name: str, array: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = array
            self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.made.append(helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def finish(self) -> None:
        """Write the nodes back, without the float weights that nobody reads any more."""
        del self.model.graph.node[:], self.model.graph.value_info[:]
        self.model.graph.node.extend(self.made)
        onnx_file.pruned(self.model)


def _layer(
    graph: _Graph, node: onnx.NodeProto, layer: nn.Linear | nn.Conv2d, weight: TensorQuant, activation: TensorQuant
) -> None:
    folded = graph.constants[node.input[1]]
    axis = 1 if node.op_type == "Gemm" and not transposed(node) else _CHANNELS[node.op_type]
    codes, scale = _integers(layer, weight, np.moveaxis(folded, axis, 0).reshape(folded.shape[axis], -1))
    shape = (folded.shape[axis], *(size for i, size in enumerate(folded.shape) if i != axis))
    stored = np.ascontiguousarray(np.moveaxis(codes.reshape(shape), 0, axis))
    base = node.output[0]
    node.input[0] = _rounded(graph, node.input[0], activation)
    node.input[1] = _stored(graph, f"{base}_weight", stored, scale, axis)
    if len(node.input) > 2 and node.input[2]:  # ONNX Runtime's integer convolution takes no float bias
        step = scale * np.float32(activation.scale[0])
        bias = np.round(graph.constants[node.input[2]] / step).astype(np.int32)
        node.input[2] = _stored(graph, f"{base}_bias", bias, step, axis=0)


def _stored(graph: _Graph, name: str, codes: np.ndarray, scale: np.ndarray, axis: int) -> str:
    """A constant in integers. ONNX Runtime multiplies in integers only where zero points are written out."""
    zero = np.zeros(scale.shape, codes.dtype)
    parts = {name: codes, f"{name}_scale": scale, f"{name}_zero_point": zero}
    reads = [graph.constant(part, array) for part, array in parts.items()]
    return graph.node("DequantizeLinear", reads, f"{name}_float", axis=axis)


def _integers(layer: nn.Linear | nn.Conv2d, quant: TensorQuant, folded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 ``[N, K]`` and float32 ``[N]`` of a weight that the exporter may have multiplied by a batch norm.

    The integers are those of the model's own weight; the factor of each channel goes into the scale, its sign into
    the integers.
    """
    rows: Tensor = layer.weight.detach().flatten(1)
    scale = torch.tensor(quant.scale).expand(len(rows)) if quant.scale else channel_scale(rows, quant.bits)
    codes = quantize_weight(rows, scale, quant.bits).float()
    own, seen = rows.double(), torch.from_numpy(np.array(folded)).double()
    factor = (own * seen).sum(1) / own.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    if not torch.allclose(factor[:, None] * own, seen, rtol=1e-5, atol=1e-6 * float(seen.abs().max())):
        raise PyprodError("a weight of the file is not the layer's: it was changed in another way than by a batch norm")
    codes = codes * torch.where(factor < 0, -1.0, 1.0)[:, None]
    return codes.to(torch.int8).numpy(), (scale * factor.abs()).float().clamp_min(
        torch.finfo(torch.float32).tiny
    ).numpy()


def _rounded(graph: _Graph, name: str, quant: TensorQuant) -> str:
    """The activation through Q and DQ, once for all that read it. Unsigned: on x86 signed ones take a slow path."""
    if (name, quant) not in graph.rounded:
        base = f"{name}_{len(graph.rounded)}"
        zero = np.array((quant.zero_point[0] if quant.zero_point else 0) + 128, np.uint8)
        scale = graph.constant(f"{base}_scale", np.array(quant.scale[0], np.float32))
        reads = [scale, graph.constant(f"{base}_zero_point", zero)]
        codes = graph.node("QuantizeLinear", [name, *reads], f"{base}_quantized")
        graph.rounded[name, quant] = graph.node("DequantizeLinear", [codes, *reads], f"{base}_rounded")
    return graph.rounded[name, quant]


def _checked(name: str, quantspec: QuantSpec) -> TensorQuant:
    """The layer's activation scheme.

    Raises:
        Unavailable: QDQ has no such scheme.
    """
    weight, activation = quantspec.weights[name], quantspec.activations.get(name)
    if weight.bits > 8 or any(weight.zero_point):
        raise Unavailable(f"{name}: QDQ here holds symmetric weights of up to 8 bits", "quantize to 8 bits")
    if activation is None or activation.bits != 8 or len(activation.scale) != 1:
        remedy = 'use { step = "ptq", scheme = "static" }'
        raise Unavailable(f"{name}: QDQ has no scales per token that are found at run time", remedy)
    return activation
