"""ONNX in the standard's own operators: float32, for any runtime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from torch.export import ExportedProgram

from pyprod.export import onnx_file, onnx_runtimes
from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import Traced, trace
from pyprod.types import PyprodError

SUFFIX = ".onnx"
NUMERICS = "float32"


def write(order: Order, path: Path) -> Written:
    """Write `path`, and ``PATH.data`` where weights are kept apart."""
    traced = trace(order.model, order.example, order.dimensions)
    made = onnx_file.convert(traced, order.opset)
    onnx_file.label(made.model, order.metadata)
    onnx_file.save(made.model, path, order.external_data)
    return _written(order, path, order.opset, traced, made.program)


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """ONNX Runtime with and without its optimizations, OpenVINO."""
    return onnx_runtimes.readers(path, order.threads)


def reopen(order: Order, path: Path) -> Written:
    """What `write` returned when it wrote this file.

    Raises:
        PyprodError: it can't be read, or has operators of a runtime's own.
    """
    opsets = {entry.domain: entry.version for entry in onnx_file.load(path).opset_import}
    foreign = ", ".join(sorted(opsets.keys() - {""}))
    if foreign:
        raise PyprodError(f"{path} has operators of {foreign}: only ONNX's own can be compared step by step")
    traced = trace(order.model, order.example, order.dimensions)
    return _written(order, path, opsets[""], traced, onnx_file.convert(traced, order.opset).program)


def _written(order: Order, path: Path, opset: int, traced: Traced, program: ExportedProgram) -> Written:
    facts = {
        "opset": opset,
        "onnxruntime": onnxruntime.__version__,
        "nodes": onnx_runtimes.optimized_nodes(path, order.threads),
    }
    return Written(traced.axes, traced.fixed, facts, program)
