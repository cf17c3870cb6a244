"""ONNX in integers, every operator: ONNX Runtime's static QDQ, less the roundings that break the model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pyprod.export import onnx_file, onnx_runtimes
from pyprod.export.onnx_collapse import quantize_all, repair
from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import trace
from pyprod.types import PyprodError, Unavailable

SUFFIX = ".static.onnx"
NUMERICS = "quantized"

#: Rows that each rounding alone is tried on.
_TRIED = 2


def write(order: Order, path: Path) -> Written:
    """Quantize, judge, repair, write `path`.

    Raises:
        Unavailable: nothing can judge the model: the workload has no metric.
        PyprodError: no choice of roundings keeps to the budget.
    """
    if order.judge is None:
        raise Unavailable("the workload has no metric to keep to", "use the format onnx_qdq")
    traced = trace(order.model, order.example, order.dimensions)
    made = quantize_all(onnx_file.convert(traced, order.opset).model, order.calibration)
    tried = tuple(t[:_TRIED] for t in order.calibration)
    found = repair(made, tried, order.judge, order.budget, order.progress)
    if not found.loss <= order.budget:
        raise PyprodError(
            f"{found.loss:.2%} of the metric is lost where {order.budget:.2%} is allowed, even with no activation "
            "rounded: weights in 8 bits are too few"
        )
    onnx_file.label(found.model, order.metadata)
    onnx_file.save(found.model, path, order.external_data)
    facts = {
        "opset": order.opset,
        "roundings": found.roundings,
        "left_out": [asdict(rounding) for rounding in found.guilty],
        "loss": {"budget": order.budget, "all_roundings": found.naive, "without_these": found.loss},
        "nodes": onnx_runtimes.optimized_nodes(path, order.threads),
    }
    return Written(traced.axes, traced.fixed, facts)


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """ONNX Runtime with and without its optimizations; OpenVINO 2026.4 gives NaN for the encoder so quantized."""
    return onnx_runtimes.onnxruntime_readers(path, order.threads)
