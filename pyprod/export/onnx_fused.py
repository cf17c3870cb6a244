"""ONNX for ONNX Runtime alone: as `onnx`, each attention one node of its own (com.microsoft.MultiHeadAttention)."""

from __future__ import annotations

from pathlib import Path

import onnx

from pyprod.export import onnx_file, onnx_runtimes
from pyprod.export.onnx_attention import fuse_attention
from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import Traced, trace
from pyprod.types import Unavailable

SUFFIX = ".fused.onnx"
NUMERICS = "float32"


def write(order: Order, path: Path) -> Written:
    """Write `path`.

    Raises:
        Unavailable: the model has no attention that is fused so.
    """
    traced = trace(order.model, order.example, order.dimensions)
    model, attention = fused(traced, order.opset)
    onnx_file.label(model, order.metadata)
    onnx_file.save(model, path, order.external_data)
    facts = {"attention": attention, "nodes": onnx_runtimes.optimized_nodes(path, order.threads)}
    return Written(traced.axes, traced.fixed, {"opset": order.opset, **facts})


def fused(traced: Traced, opset: int = onnx_file.OPSET) -> tuple[onnx.ModelProto, str]:
    """The file to be, and how much of it is fused: "6 of 6 fused".

    Raises:
        Unavailable: nothing is.
    """
    model, program = onnx_file.convert(traced, opset)
    replaced, found = fuse_attention(model, program)
    if not replaced:
        raise Unavailable(f"none of the model's {found} attentions can be fused", "use the format onnx")
    return model, f"{replaced} of {found} fused"


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """ONNX Runtime with and without its optimizations."""
    return onnx_runtimes.onnxruntime_readers(path, order.threads)
