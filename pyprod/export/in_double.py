"""A program and the nodes of an ONNX file, run in float64 whatever they say of float32."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy.special import ndtr
from torch import Tensor, fx

from pyprod.export.quiet import quiet


def program_values(
    program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...], names: set[str]
) -> dict[str, np.ndarray]:
    """What the program's nodes of these names give in float64."""
    with quiet():
        module = copy.deepcopy(program.module())  # it shares its weights with the program
    assert isinstance(module, fx.GraphModule)
    recorder = _Recorder(module.double(), names)
    with torch.no_grad():
        recorder.run(*(t.double() if t.is_floating_point() else t for t in inputs))
    return recorder.seen


class _Recorder(fx.Interpreter):
    """Runs a program in float64, whatever it says of float32, and keeps what its nodes give."""

    def __init__(self, module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self._names = names
        self.seen: dict[str, np.ndarray] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As the base class, and remember."""
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, Tensor):
            self.seen[n.name] = value.numpy()
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The checks of input shapes that torch.export adds are of the example's dtypes: left out."""
        return None if target == "_guards_fn" else super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """As the base class, with float32 among the arguments read as float64."""
        args, kwargs = (fx.node.map_aggregate(a, _dtype) for a in (args, kwargs))
        return super().call_function(target, args, kwargs)


def _dtype(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def widened(array: np.ndarray) -> np.ndarray:
    """float32 as float64; anything else as it is."""
    return array.astype(np.float64) if array.dtype == np.float32 else array


def double_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, its casts to float32 and its float32 tensors in float64."""
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(widened(numpy_helper.to_array(attribute.t))))
    return wide


def evaluate(
    node: onnx.NodeProto, feeds: Mapping[str, np.ndarray], opsets: Iterable[onnx.OperatorSetIdProto]
) -> list[np.ndarray]:
    """One node in ONNX's reference evaluator, as a model of its own."""
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    taken = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    model = helper.make_model(helper.make_graph([node], "node", given, taken), opset_imports=list(opsets))
    return [np.asarray(value) for value in ReferenceEvaluator(model, new_ops=[_Gelu]).run(None, dict(feeds))]


class _Gelu(OpRun):  # type: ignore[misc]
    """Gelu in float64: the evaluator's own, a function of other operators, has float32 constants."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x * ndtr(x),)


_Gelu.__name__ = "Gelu"  # the evaluator finds operators by their class's name
