"""Whether an ONNX file says what the model says: step by step, in float64, each step on the model's own inputs.

The exporter names the values of the file after the nodes of the program that it was made from. Both are run in
float64, where rounding hides nothing: the program as a whole, the file node by node, and wherever a name is known to
both, the file's value is compared and then *replaced by the program's*. So an error stays where it was made: each
faulty step is named, and no step after it. The file's nodes run in ONNX's reference evaluator, which is the standard's
own and shares no code with any runtime.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
from pyprod.types import PyprodError

#: What float64 leaves of a step's error, where the file holds the model's own constants.
EXACT = 1e-11

#: The same where a constant was computed in float32 when it was exported: a folded batch norm, 1 / sqrt(width).
FOLDED = 5e-7

_FX_NODE = "pkg.torch.onnx.fx_node"
_SCOPES = "pkg.torch.onnx.name_scopes"
_NOT_REACHED = "a node that it reads fails"


@dataclass(frozen=True)
class Step:
    """One step of the program, and what the file makes of it.

    Attributes:
        name: of the program's node.
        module: the module whose forward has it, "" for the model itself.
        operators: the file's node types that compute it.
        error: largest difference over the largest magnitude; infinite where the values can't be compared.
        tolerance: `EXACT` or `FOLDED`; 0 for integers.
        problem: why they can't be compared: another shape, a node that fails.
    """

    name: str
    module: str
    operators: tuple[str, ...]
    error: float
    tolerance: float
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """False for NaN."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        what = self.problem or f"differs by {self.error:.2g} (tolerance {self.tolerance:g})"
        return f"{self.name}{where} ({', '.join(self.operators)}): {what}"


@dataclass(frozen=True)
class Ledger:
    """What was compared.

    Attributes:
        steps: in the order of the file.
        exact: constants of the file that are, bit for bit, a weight of the model or its transpose.
        folded: float constants that are not; they are checked by the steps that read them.
    """

    steps: tuple[Step, ...]
    exact: int
    folded: int

    @property
    def faults(self) -> tuple[Step, ...]:
        """Steps that differ, the first that the file computes first; not what another kept from being computed."""
        return tuple(step for step in self.steps if not step.agrees and step.problem != _NOT_REACHED)

    @property
    def largest(self) -> Step:
        """The step that uses most of its tolerance."""
        return max(self.steps, key=lambda step: step.error / step.tolerance if step.tolerance else step.error)


def ledger(program: torch.export.ExportedProgram, file: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> Ledger:
    """Compare program and file on `inputs`, as the program takes them.

    Raises:
        PyprodError: the file has no value that the program names: it was made from another model.
    """
    wanted = _program_values(program, inputs, {name for node in file.graph.node for name in node.output})
    if not wanted:
        raise PyprodError("the file shares no value with the model: it was exported from another one")
    own = _Constants(program)
    run = _Run(file, wanted, own)
    steps = (*_tables(program, file), *run.steps(inputs))
    return Ledger(steps, own.exact, own.folded)


def _tables(program: torch.export.ExportedProgram, file: onnx.ModelProto) -> Iterator[Step]:
    """Weights that rows are looked up in, and that differ: whatever rows the inputs name, most are not read."""
    held = {tensor.name: tensor for tensor in file.graph.initializer}
    for node in file.graph.node:
        own = program.state_dict.get(node.input[0]) if node.op_type == "Gather" else None
        if own is None or node.input[0] not in held:
            continue
        wanted, got = own.detach().numpy(), numpy_helper.to_array(held[node.input[0]])
        if got.shape != wanted.shape or got.tobytes() != wanted.tobytes():
            problem = f"the weight {node.input[0]} is not the model's"
            yield Step(program_node(node), module_of(node), (node.op_type,), math.inf, EXACT, problem)


def program_node(node: onnx.NodeProto) -> str:
    """The node of the program that a node of the file was made from; its own name where it was made otherwise."""
    return _about(node, _FX_NODE).partition(" ")[0].lstrip("%") or node.name


def module_of(node: onnx.NodeProto) -> str:
    """The module whose forward has it: of "['', 'layer.0', 'layer.0.query', 'linear']" the last but one."""
    parts = [part.strip(" '\"") for part in _about(node, _SCOPES).strip("[]").split(",")]
    return parts[-2] if len(parts) > 1 else ""


def _about(node: onnx.NodeProto, key: str) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


class _Constants:
    """Tells the model's own weights from what was computed when the file was made."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        tensors = [*program.state_dict.values(), *program.constants.values()]
        found = [t.detach().numpy() for t in tensors if isinstance(t, Tensor)]
        self._known = {_fingerprint(a) for a in found} | {_fingerprint(a.T) for a in found}
        self.exact = self.folded = 0

    def is_exact(self, array: np.ndarray) -> bool:
        """Whether it is one, counted; integers and infinities are nobody's weights and exact."""
        if array.dtype.kind != "f" or not np.isfinite(array).any():
            return True
        known = _fingerprint(array) in self._known
        short = array.size == 1 and float(array.item()).is_integer()
        self.exact += known
        self.folded += not known and not short
        return known or short


def _fingerprint(array: np.ndarray) -> tuple[tuple[int, ...], int]:
    return array.shape, hash(np.ascontiguousarray(array).tobytes())


@dataclass
class _Run:
    """The file, run node by node in float64."""

    file: onnx.ModelProto
    wanted: Mapping[str, np.ndarray]
    constants: _Constants
    values: dict[str, np.ndarray] = field(default_factory=dict)
    rounded: set[str] = field(default_factory=set)  # values that a folded constant has entered since the last step

    def steps(self, inputs: tuple[Tensor, ...]) -> Iterator[Step]:
        graph = self.file.graph
        held = {tensor.name for tensor in graph.initializer}
        names = [value.name for value in graph.input if value.name not in held]
        self.values.update(zip(names, (_in_double(t.numpy()) for t in inputs), strict=True))
        for tensor in graph.initializer:
            self._hold(tensor.name, numpy_helper.to_array(tensor))
        parts: dict[str, list[str]] = {}
        for node in graph.node:
            part, module = program_node(node), module_of(node)
            parts.setdefault(part, []).append(node.op_type)
            problem, known = self._compute(node), [name for name in node.output if name in self.wanted]
            for name in known:
                yield self._compare(name, part, module, tuple(parts[part]), problem)
            if problem and problem != _NOT_REACHED and not known:
                yield Step(part, module, (node.op_type,), math.inf, EXACT, problem)

    def _hold(self, name: str, array: np.ndarray) -> None:
        if not self.constants.is_exact(array):
            self.rounded.add(name)
        self.values[name] = _in_double(array)

    def _compute(self, node: onnx.NodeProto) -> str:
        """Run one node; why it can't be run, or ""."""
        if node.op_type == "Constant":
            self._hold(node.output[0], _evaluate(node, {}, self.file.opset_import)[0])
            return ""
        reads = [name for name in node.input if name]
        if any(name not in self.values for name in reads):
            return _NOT_REACHED
        if any(name in self.rounded for name in reads):
            self.rounded.update(node.output)
        try:
            found = _evaluate(_double_node(node), {name: self.values[name] for name in reads}, self.file.opset_import)
        except Exception as error:  # whatever numpy raises on shapes that do not fit
            return f"fails: {str(error).strip().splitlines()[0][:120] or type(error).__name__}"
        self.values.update(zip(node.output, found, strict=True))
        return ""

    def _compare(self, name: str, part: str, module: str, operators: tuple[str, ...], problem: str) -> Step:
        want, got = self.wanted[name], self.values.get(name)
        tolerance = 0.0 if want.dtype.kind != "f" else FOLDED if name in self.rounded else EXACT
        error = math.inf
        if got is not None and not problem:
            problem = "" if got.shape == want.shape else f"has shape {list(got.shape)}, the model's {list(want.shape)}"
            error = error if problem else difference(got, want)
        self.values[name] = want
        self.rounded.discard(name)
        return Step(part, module, operators, error, tolerance, problem)


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference over the largest finite magnitude of `want`; infinite where NaN or infinities differ."""
    if want.dtype.kind != "f":
        return 0.0 if np.array_equal(got, want) else math.inf
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return math.inf
    if not finite.any():
        return 0.0
    scale = float(np.abs(want[finite]).max())
    return float(np.abs(got[finite] - want[finite]).max()) / max(scale, float(np.finfo(np.float32).tiny))


def _program_values(
    program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...], names: set[str]
) -> dict[str, np.ndarray]:
    """What the program's nodes of these names give in float64, and its output under the file's name for it."""
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
        args, kwargs = (fx.node.map_aggregate(a, _widened) for a in (args, kwargs))
        return super().call_function(target, args, kwargs)


def _widened(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def _in_double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _double_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, its casts to float32 and its float32 tensors in float64."""
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(_in_double(numpy_helper.to_array(attribute.t))))
    return wide


def _evaluate(
    node: onnx.NodeProto, feeds: Mapping[str, np.ndarray], opsets: Iterable[onnx.OperatorSetIdProto]
) -> list[np.ndarray]:
    """One node in the reference evaluator, as a model of its own."""
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
