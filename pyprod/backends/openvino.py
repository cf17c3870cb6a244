"""OpenVINO on the CPU: float32, bfloat16, and INT8 by a QuantSpec, or else by NNCF's post-training quantization.

NNCF takes no foreign scales: it places and calibrates its own quantizers on the request's rows. A QuantSpec comes as an
ONNX file with Q and DQ in it.
"""

from __future__ import annotations

import io
import logging
import os
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from torch import Tensor

from pyprod import discover
from pyprod.backends import Request, Runner, Variant
from pyprod.backends._runner import RELU_HIDES_NAN, Signature, calibration_batches, cpu_flags
from pyprod.export import onnx_file, onnx_qdq
from pyprod.export.program import trace
from pyprod.export.shared import cached
from pyprod.openvino_core import core
from pyprod.types import QuantSpec, Unavailable

VARIANTS = {
    "fp32": Variant("float32", "arithmetic held to float32"),
    "bf16": Variant("bfloat16", "inference precision bfloat16"),
    "int8": Variant(
        "int8", "NNCF: weights per channel, activations per tensor with calibrated scales", lowers=("per_tensor",)
    ),
}

#: Unless told, the CPU plugin computes a float32 model in bfloat16 wherever the CPU can.
_PRECISION = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "int8": ov.Type.f32}


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    if device != "cpu":
        return Unavailable("OpenVINO has no NVIDIA GPU plugin")
    if variant == "bf16" and not cpu_flags() & {"avx512_bf16", "amx_bf16"}:
        return Unavailable("the CPU has neither AVX512-BF16 nor AMX", "use openvino.fp32")
    return discover.missing("nncf") if variant == "int8" else None


def prepare(request: Request) -> Runner:
    """The ONNX file at the example's shapes, quantized if so asked, saved as IR and compiled from there."""
    if request.quantspec is not None and request.variant == "int8":
        model, notes = _lowered(request, request.quantspec)
        return _runner(model, request, notes)
    exported = cached(request.model, request.example, request.cache)
    model = core().read_model(exported.path)
    notes = exported.notes
    if request.variant == "int8":
        model = _quantized(model, request, request.example[0].shape[0] if exported.static_batch else 1)
        notes += (f"calibrated on {request.calibration[0].shape[0]} rows",)
    runner = _runner(model, request, notes)
    runner.borrowed_s = exported.borrowed_s
    return runner


def _lowered(request: Request, quantspec: QuantSpec) -> tuple[ov.Model, tuple[str, ...]]:
    """By Q and DQ.

    Raises:
        Unavailable: the QuantSpec has no static scales.
    """
    made, layers = onnx_qdq.lowered(trace(request.model, request.example), request.model, quantspec)
    path = request.workdir / "quantspec.onnx"
    onnx_file.save(made, path)
    return core().read_model(path), (f"{layers} layers by the QuantSpec",)


def _runner(model: ov.Model, request: Request, notes: tuple[str, ...]) -> OpenVinoRunner:
    model.reshape({port: list(t.shape) for port, t in zip(model.inputs, request.example, strict=True)})
    path = request.workdir / "model.xml"
    ov.save_model(model, path, compress_to_fp16=False)
    return OpenVinoRunner(path, request, notes)


class OpenVinoRunner(Runner):
    """A compiled model on the CPU plugin; inputs and output are the caller's memory, not copies."""

    def __init__(self, path: Path, request: Request, notes: tuple[str, ...]) -> None:
        self._signature = Signature(request.example)
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": request.threads,
            "INFERENCE_PRECISION_HINT": _PRECISION[request.variant],
        }
        self._model = core().compile_model(path, "CPU", config)
        self.artifact_bytes = path.stat().st_size + path.with_suffix(".bin").stat().st_size
        self.notes = (*notes, _arithmetic(self._model), RELU_HIDES_NAN)

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        request = self._model.create_infer_request()
        placed = [ov.Tensor(t.numpy(), shared_memory=True) for t in self._signature.check(inputs)]
        for index, tensor in enumerate(placed):
            request.set_input_tensor(index, tensor)
        output = np.empty(self._model.output(0).shape, np.float32)
        request.set_output_tensor(0, ov.Tensor(output, shared_memory=True))
        start, wait = request.start_async, request.wait  # as infer(), less its dispatch of Python arguments

        def call() -> object:
            start()
            wait()
            return output

        call.keep = placed  # type: ignore[attr-defined]
        return call

    def tensor(self, output: object) -> Tensor:
        assert isinstance(output, np.ndarray)
        return torch.from_numpy(output)


def _quantized(model: ov.Model, request: Request, batch: int) -> ov.Model:
    os.environ.setdefault("NNCF_CI", "1")  # or it sends usage statistics over the network, while others are timed
    import nncf  # takes a second, which listing need not pay

    nncf.set_log_level(logging.ERROR)
    rows = [tuple(t.numpy() for t in rows) for rows in calibration_batches(request, batch)]
    with redirect_stdout(io.StringIO()):  # four progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(rows),
            subset_size=len(rows),
            model_type=nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
        )


def _has_attention(model: ov.Model) -> bool:
    """Whether some matrix product is of two activations."""
    products = (op for op in model.get_ops() if op.get_type_name() == "MatMul")
    return any(not any(_is_weight(port.get_source_output().get_node()) for port in op.inputs()) for op in products)


def _is_weight(node: ov.Node) -> bool:
    while node.get_type_name() in {"Convert", "Reshape", "Transpose"}:
        node = node.input(0).get_source_output().get_node()
    return bool(node.get_type_name() == "Constant")


def _arithmetic(compiled: ov.CompiledModel) -> str:
    """In what the matrix products and convolutions of the graph that really runs compute."""
    precisions = Counter(
        op.get_rt_info()["runtimePrecision"].astype(str)
        for op in compiled.get_runtime_model().get_ops()
        if op.get_rt_info()["layerType"].astype(str) in {"FullyConnected", "MatMul", "Convolution"}
    )
    named = ", ".join(f"{count} in {precision}" for precision, count in precisions.most_common())
    return f"matrix products and convolutions: {named}"
