"""Whether an ONNX file says what the model says: step by step, in float64, each step on the model's own inputs.

The exporter names the values of the file after the nodes of the program that it was made from. Both are run in
float64, where rounding hides nothing: the program as a whole, the file node by node, and wherever a name is known to
both, the file's value is compared and then *replaced by the program's*. So an error stays where it was made: each
faulty step is named, and no step after it. The file's nodes run in ONNX's reference evaluator, which is the standard's
own and shares no code with any runtime.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from pyprod.export.in_double import double_node, evaluate, program_values, widened
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
    wanted = program_values(program, inputs, {name for node in file.graph.node for name in node.output})
    if not wanted:
        raise PyprodError("the file shares no value with the model: it was exported from another one")
    own = _Constants(program)
    run = _Run(file, wanted, own)
    wrong = {step.name: step for step in _weights(program, file)}
    steps = [wrong.pop(step.name, step) for step in run.steps(inputs)]  # a wrong weight is why its values differ
    return Ledger((*wrong.values(), *steps), own.exact, own.folded)


def _weights(program: torch.export.ExportedProgram, file: onnx.ModelProto) -> Iterator[Step]:
    """Constants that bear the name of one of the model's weights, and differ from it: bit by bit.

    Values would not show a row that no input looks up, nor a change below `FOLDED`. A weight that a batch norm was
    folded into keeps its name and not its value: the values have to show that one.
    """
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    own = {name: tensor.detach().numpy() for name, tensor in program.state_dict.items()}
    for node in file.graph.node:
        step = program_node(node)
        for name in (n for n in node.input if n in own and n in held and "batch_norm" not in step):
            if _fingerprint(held[name]) != _fingerprint(own[name]):
                problem = f"the weight {name} is not the model's"
                yield Step(step, module_of(node), (node.op_type,), math.inf, EXACT, problem)


def program_node(node: onnx.NodeProto) -> str:
    """The node of the program that a node of the file was made from; its own name where it was made otherwise."""
    return _about(node, _FX_NODE).partition(" ")[0].lstrip("%") or node.name


def module_of(node: onnx.NodeProto) -> str:
    """The module whose forward has it: of "['', 'layer.0', 'layer.0.query', 'linear']" the last but one."""
    parts = [part.strip(" '\"") for part in _about(node, _SCOPES).strip("[]").split(",")]
    return parts[-2] if len(parts) > 1 else ""


def transposed(node: onnx.NodeProto) -> bool:
    """Whether a Gemm takes its weight as torch holds it, ``[N, K]``."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def layer_of(node: onnx.NodeProto) -> str:
    """The layer whose weight is the node's second input.

    By the weight where the file has it under the model's name: a convolution bears the name of its batch norm.
    """
    weight, dot, kind = node.input[1].rpartition(".")
    return weight if dot and kind == "weight" else module_of(node)


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
        self.values.update(zip(names, (widened(t.numpy()) for t in inputs), strict=True))
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
        self.values[name] = widened(array)

    def _compute(self, node: onnx.NodeProto) -> str:
        """Run one node; why it can't be run, or ""."""
        if node.op_type == "Constant":
            self._hold(node.output[0], evaluate(node, {}, self.file.opset_import)[0])
            return ""
        reads = [name for name in node.input if name]
        if any(name not in self.values for name in reads):
            return _NOT_REACHED
        if any(name in self.rounded for name in reads):
            self.rounded.update(node.output)
        try:
            found = evaluate(double_node(node), {name: self.values[name] for name in reads}, self.file.opset_import)
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
