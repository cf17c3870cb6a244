"""Static INT8 of every operator, and the few roundings that break a model: found one by one, and taken out again.

ONNX Runtime's quantizer rounds every activation by default. In a transformer a handful of them (what enters a softmax,
a residual stream with outliers) cost nearly all of the accuracy. Here each rounding becomes a switch of one graph, an
input of the model, so that hundreds of combinations run in one session: each alone, which ranks them, then the most
harmful ones left out, as few as it takes.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from torch import Tensor

from pyprod.export import onnx_file
from pyprod.export.ledger import module_of, program_node
from pyprod.export.order import Reader

_SWITCHES = "pyprod_switches"
_BATCH = 8

#: What the metric loses with these roundings in place; 0 is nothing.
Judge = Callable[[Reader], float]


@dataclass(frozen=True)
class Rounding:
    """One activation that is rounded.

    Attributes:
        tensor: its name in the file.
        step, module: of the program, that computes it; the input's own name where none does.
        error: relative L2 error of the model's output with this rounding alone.
    """

    tensor: str
    step: str
    module: str
    error: float


@dataclass(frozen=True)
class Repaired:
    """What was found.

    Attributes:
        model: the file with the harmless roundings.
        roundings: all that there were.
        guilty: those taken out, the most harmful first.
        naive, loss: what the metric loses with all of them, and with what is left.
    """

    model: onnx.ModelProto
    roundings: int
    guilty: tuple[Rounding, ...]
    naive: float
    loss: float


def quantize_all(model: onnx.ModelProto, calibration: tuple[Tensor, ...]) -> onnx.ModelProto:
    """ONNX Runtime's static QDQ of every operator that it has, weights per channel, ranges by minimum and maximum."""
    source = onnx.ModelProto()
    source.CopyFrom(model)
    del source.graph.value_info[:]  # the quantizer transposes weights and then fails on the shapes recorded for them
    add_pre_process_metadata(source)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "quantized.onnx"
        names = [value.name for value in source.graph.input]
        with _silent():
            quantize_static(
                source,
                target,
                _Rows(calibration, names),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Else a ReLU goes where its rounding clips below 0, and taking out the rounding takes out the ReLU.
                extra_options={"QDQKeepRemovableActivations": True},
            )
        return onnx.load(target)


def repair(
    quantized: onnx.ModelProto,
    rows: tuple[Tensor, ...],
    judge: Judge,
    budget: float,
    progress: Callable[[str], None] = lambda what: None,
) -> Repaired:
    """Take out roundings, the most harmful first and as few as it takes, until `judge` finds at most `budget` lost.

    Where that takes all of them and does not suffice, `Repaired.loss` is above the budget.

    Args:
        rows: that each rounding alone is tried on; a few suffice.
        judge: is asked some `log2(roundings)` times.
    """
    switched = _Switched(quantized)
    count = len(switched.pairs)
    everything = np.ones(count, bool)
    naive = judge(switched.reader(everything))
    if naive <= budget:
        return Repaired(quantized, count, (), naive, naive)
    ranked = _ranked(switched, rows, progress)
    losses: dict[int, float] = {}  # by how many are left out

    def loss(left_out: int) -> float:
        progress(f"{left_out} of {count} roundings left out")
        losses[left_out] = judge(switched.reader(_without(everything, ranked[:left_out])))
        return losses[left_out]

    fewest = bisect.bisect_left(range(count), True, lo=1, key=lambda left_out: loss(left_out) <= budget)
    if fewest not in losses:  # all of them, which the search takes for granted
        loss(fewest)
    out = ranked[:fewest]
    model = switched.without([index for index, _ in out])
    return Repaired(model, count, tuple(rounding for _, rounding in out), naive, losses[fewest])


def _ranked(
    switched: _Switched, rows: tuple[Tensor, ...], progress: Callable[[str], None]
) -> list[tuple[int, Rounding]]:
    """Every rounding alone against none of them; NaN is the most harmful."""
    none = np.zeros(len(switched.pairs), bool)
    want = switched.reader(none)(rows).double()
    found = []
    for index in range(len(none)):
        alone = none.copy()
        alone[index] = True
        error = float((switched.reader(alone)(rows).double() - want).norm() / want.norm().clamp_min(1e-30))
        found.append((index, switched.rounding(index, error)))
        progress(f"rounding {index + 1} of {len(none)} alone")
    return sorted(found, key=lambda item: (item[1].error == item[1].error, -item[1].error))


def _without(switches: np.ndarray, out: Sequence[tuple[int, Rounding]]) -> np.ndarray:
    left = switches.copy()
    left[[index for index, _ in out]] = False
    return left


class _Switched:
    """A QDQ file whose roundings are switched on and off by an input."""

    def __init__(self, quantized: onnx.ModelProto) -> None:
        self._model = quantized
        self._makers = {name: node for node in quantized.graph.node for name in node.output}
        self.pairs = [
            (self._makers[node.input[0]], node)
            for node in quantized.graph.node
            if node.op_type == "DequantizeLinear" and self._is_rounding(node.input[0])
        ]
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # or it fuses what is switched
        options.log_severity_level = 4
        self._session = ort.InferenceSession(
            self._built().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = [value.name for value in quantized.graph.input]

    def reader(self, switches: np.ndarray) -> Reader:
        def read(inputs: tuple[Tensor, ...]) -> Tensor:
            parts = []
            for start in range(0, len(inputs[0]), _BATCH):
                feeds = {name: t[start : start + _BATCH].numpy() for name, t in zip(self._names, inputs, strict=True)}
                parts.append(torch.from_numpy(self._session.run(None, feeds | {_SWITCHES: switches})[0]))
            return torch.cat(parts)

        return read

    def rounding(self, index: int, error: float) -> Rounding:
        tensor = self.pairs[index][0].input[0]
        maker = self._makers.get(tensor)
        step, module = (program_node(maker), module_of(maker)) if maker is not None else (tensor, "")
        return Rounding(tensor, step, module, error)

    def without(self, indices: Sequence[int]) -> onnx.ModelProto:
        """The file with these roundings gone."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        gone = {name: self.pairs[i][0].input[0] for i in indices for name in self.pairs[i][1].output}
        dead = {name for i in indices for node in self.pairs[i] for name in node.output}
        nodes = [node for node in model.graph.node if not dead & set(node.output)]
        for node in nodes:
            node.input[:] = [gone.get(name, name) for name in node.input]
        outputs = {value.name for value in model.graph.output}
        nodes += [helper.make_node("Identity", [gone[name]], [name]) for name in sorted(outputs & gone.keys())]
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.node.extend(nodes)
        return onnx_file.pruned(model)

    def _is_rounding(self, name: str) -> bool:
        return name in self._makers and self._makers[name].op_type == "QuantizeLinear"

    def _built(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.input.append(helper.make_tensor_value_info(_SWITCHES, TensorProto.BOOL, [len(self.pairs)]))
        source = {pair[1].output[0]: (i, pair[0].input[0]) for i, pair in enumerate(self.pairs)}
        for node in self._model.graph.node:
            if node.op_type != "DequantizeLinear" or node.output[0] not in source:
                model.graph.node.append(node)
                continue
            index, unrounded = source[node.output[0]]
            name = node.output[0]
            made = onnx.NodeProto()
            made.CopyFrom(node)
            made.output[0] = f"{name}_on"
            model.graph.initializer.append(numpy_helper.from_array(np.array(index, np.int64), f"{name}_index"))
            model.graph.node.extend([
                made,
                helper.make_node("Gather", [_SWITCHES, f"{name}_index"], [f"{name}_switch"]),
                helper.make_node("Where", [f"{name}_switch", f"{name}_on", unrounded], [name]),
            ])  # fmt: skip
        return model


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """It warns of every vector that has no second axis to quantize along."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows in batches, as the quantizer reads them."""

    def __init__(self, rows: tuple[Tensor, ...], names: Sequence[str]) -> None:
        self._feeds = iter([
            {name: t[start : start + _BATCH].numpy() for name, t in zip(names, rows, strict=True)}
            for start in range(0, len(rows[0]), _BATCH)
        ])  # fmt: skip

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
