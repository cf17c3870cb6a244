"""ONNX Runtime: CPU and CUDA execution providers, float and INT8, through IOBinding without copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor

from pyprod.backends import Request, Runner, Variant
from pyprod.backends._runner import Signature, calibration_batches, has_vnni
from pyprod.export import onnx_file, onnx_fused, onnx_native, onnx_qdq
from pyprod.export.program import Traced, trace
from pyprod.export.shared import cached
from pyprod.gpu.present import nvidia_gpu
from pyprod.nn import dynamic_quantspec
from pyprod.types import Unavailable

VARIANTS = {
    "fp32": Variant("float32", "graph optimizations at their highest level"),
    "fused": Variant("float32", "each attention one node, which ONNX Runtime doesn't find by itself", attention=True),
    "fp16": Variant("float16", "weights and activations in float16 (CUDA)"),
    "int8_dynamic": Variant("int8", "weights per channel, activations per tensor with scales found at run time"),
    "int8_native": Variant("int8", "linear layers on our kernels, the rest in float", lowers=("per_token",)),
    "int8_static": Variant(
        "int8", "QDQ: weights per channel, activations per tensor with calibrated scales", lowers=("per_tensor",)
    ),
}

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

#: Matrix products as they stand in an optimized graph, in integers and in float.
_INTEGER_OPS = {"ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"}
_INTEGER_OPS |= {"QLinearConv", "QLinearMatMul", onnx_native.OPERATOR}
_FLOAT_OPS = {"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "NhwcFusedConv"}

#: Rows per calibration pass: enough for speed, few enough for memory.
_CALIBRATION_BATCH = 8


def available(variant: str, device: str) -> Unavailable | None:
    """Why `variant` can't run on `device`, or None."""
    if variant == "fp16" and device == "cpu":
        return Unavailable("ONNX Runtime's CPU provider computes float16 in float32", "use onnxruntime.fp32")
    if device not in _PROVIDERS:
        return Unavailable(f"no device {device!r}", "use cpu or cuda")
    if device == "cuda" and not nvidia_gpu():
        return Unavailable("no NVIDIA GPU")
    if variant == "int8_native" and device == "cuda":
        return Unavailable("the custom operators run on the CPU only", "use native.int8")
    if _PROVIDERS[device] not in ort.get_available_providers():
        return Unavailable(f"this ONNX Runtime has no {_PROVIDERS[device]}", "pip install onnxruntime-gpu")
    return None


_Maker = Callable[[Traced, Request], tuple[onnx.ModelProto, tuple[str, ...]]]


def prepare(request: Request) -> Runner:
    """A session over the model's ONNX file, converted as the variant says.

    Raises:
        Unavailable: the model has nothing that the variant converts.
    """
    if make := _maker(request):
        return _own(make, request)
    exported = cached(request.model, request.example, request.cache)
    path, notes = exported.path, exported.notes
    if request.variant != "fp32":
        path = request.workdir / f"{request.variant}.onnx"
        notes += {"fp16": _to_fp16, "int8_dynamic": _to_int8_dynamic, "int8_static": _to_int8_static}[request.variant](
            exported.path, path, request
        )
    runner = OnnxRunner(path, request, notes)
    runner.borrowed_s = exported.borrowed_s
    return runner


def _own(make: _Maker, request: Request) -> Runner:
    """Made from the program and no file, so that it exports by itself."""
    traced = trace(request.model, request.example)
    model, notes = make(traced, request)
    path = request.workdir / f"{request.variant}.onnx"
    onnx_file.save(model, path)
    return OnnxRunner(path, request, (*notes, *(f"static {d}: {why}" for d, why in traced.fixed.items())))


def _fused(traced: Traced, request: Request) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    model, attention = onnx_fused.fused(traced)
    return model, (f"attention: {attention}",)


def _native(traced: Traced, request: Request) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    quantspec = request.quantspec or dynamic_quantspec(request.model)
    if not quantspec.weights:
        raise Unavailable("model has no linear layer")
    model, layers, attention = onnx_native.lowered(traced, request.model, quantspec)
    return model, (f"{layers} linear layers on our kernels; attention in float: {attention}",)


def _quantspec(traced: Traced, request: Request) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    assert request.quantspec is not None
    model, layers = onnx_qdq.lowered(traced, request.model, request.quantspec)
    return model, (f"{layers} layers by the QuantSpec",)


def _maker(request: Request) -> _Maker | None:
    """What writes the variant's file; None: ONNX Runtime's tools, from the file that all share."""
    if request.variant == "int8_static" and request.quantspec is not None:
        return _quantspec
    return {"fused": _fused, "int8_native": _native}.get(request.variant)


class OnnxRunner(Runner):
    """An ONNX Runtime session on one provider, its inputs and its output bound to memory that stays in place."""

    def __init__(self, path: Path, request: Request, notes: tuple[str, ...]) -> None:
        self._signature = Signature(request.example)
        self._device = request.device
        self._session, more = _session(path, request)
        self.artifact_bytes = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))  # with .data
        self.notes = notes + more
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._output = self._session.get_outputs()[0]

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        binding = self._session.io_binding()
        for name, tensor in zip(self._inputs, self._signature.check(inputs), strict=True):
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(tensor.numpy(), self._device, 0))
        output = ort.OrtValue.ortvalue_from_shape_and_type(self._output.shape, np.float32, self._device, 0)
        binding.bind_ortvalue_output(self._output.name, output)
        run, synchronize = self._session.run_with_iobinding, binding.synchronize_outputs

        def call() -> object:
            run(binding)
            return output

        def synchronized() -> object:
            run(binding)
            synchronize()
            return output

        return call if self._device == "cpu" else synchronized

    def tensor(self, output: object) -> Tensor:
        assert isinstance(output, ort.OrtValue)
        return torch.from_numpy(output.numpy())


def _session(path: Path, request: Request) -> tuple[ort.InferenceSession, tuple[str, ...]]:
    """A session on the request's provider, and what it left to another provider or to float arithmetic.

    Raises:
        Unavailable: the provider did not load; ONNX Runtime would go on with the CPU.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if request.variant == "int8_native":
        options.register_custom_ops_library(str(onnx_native.LIBRARY))
    options.add_free_dimension_override_by_name("batch", request.example[0].shape[0])
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    optimized = request.workdir / "optimized.onnx"
    if request.variant.startswith("int8"):
        options.optimized_model_filepath = str(optimized)
    provider = _PROVIDERS[request.device]
    if request.device == "cuda":
        ort.preload_dlls()
    session = ort.InferenceSession(str(path), options, providers=[provider], disabled_optimizers=_unwanted(request))
    if session.get_providers()[0] != provider:
        raise Unavailable(f"{provider} did not load", "install the CUDA and cuDNN libraries it was built for")
    notes = _fallbacks(session, provider)
    if request.variant.startswith("int8"):
        notes += _arithmetic(optimized)
        optimized.unlink()
    return session, notes


def _unwanted(request: Request) -> list[str] | None:
    """What joins a product and its bias before Q and DQ are looked at, and so leaves products in float: the encoder at
    batch 1 took 68 ms instead of 15."""
    return ["MatMulAddFusion"] if _maker(request) is _quantspec else None


def _fallbacks(session: ort.InferenceSession, provider: str) -> tuple[str, ...]:
    elsewhere = Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    )
    if not elsewhere:
        return ()
    named = ", ".join(f"{count} {op}" for op, count in elsewhere.most_common())
    return (f"{elsewhere.total()} nodes fell back from {provider} to the CPU: {named}",)


def _arithmetic(optimized: Path) -> tuple[str, ...]:
    """How many matrix products and convolutions of the graph that really runs are in integers."""
    ops = Counter(node.op_type for node in onnx.load(str(optimized), load_external_data=False).graph.node)
    integer, floating = sum(ops[op] for op in _INTEGER_OPS), sum(ops[op] for op in _FLOAT_OPS)
    return (f"{integer} of {integer + floating} matrix products and convolutions in integers, the rest in float",)


def _to_fp16(source: Path, target: Path, request: Request) -> tuple[str, ...]:
    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))
    return ("inputs and outputs stay float32",)


def _to_int8_dynamic(source: Path, target: Path, request: Request) -> tuple[str, ...]:
    model = _quantizable(source)
    ops = {"Gemm", "MatMul"}  # not Conv: ConvInteger takes no signed weights
    _weighted(model, ops)
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=sorted(ops),  # by type, since the quantizer renames Gemm nodes before it looks names up
        per_channel=True,
        reduce_range=_must_reduce_range(request),
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    return ("embeddings, normalization and attention products in float",)


def _to_int8_static(source: Path, target: Path, request: Request) -> tuple[str, ...]:
    model = _quantizable(source)
    inputs = model.graph.input
    batch = inputs[0].type.tensor_type.shape.dim[0].dim_value or _CALIBRATION_BATCH  # 0: any batch runs
    signed = request.device == "cuda"  # its integer kernels take signed symmetric activations only
    quantize_static(
        model,
        target,
        _Calibration(request, [node.name for node in inputs], batch),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=_weighted(model, {"Conv", "Gemm", "MatMul"}),
        per_channel=True,
        reduce_range=_must_reduce_range(request),
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": signed},
    )
    return (f"ranges: min-max over {request.calibration[0].shape[0]} calibration rows",)


def _quantizable(source: Path) -> onnx.ModelProto:
    """The exported graph without its recorded shapes.

    The quantizer transposes the weights of Gemm and then fails on the shape that was recorded for them; it
    infers shapes itself.
    """
    model = onnx.load(str(source))
    del model.graph.value_info[:]
    add_pre_process_metadata(model)  # constants are folded and batch norms fused: nothing to warn about
    return model


def _weighted(model: onnx.ModelProto, ops: set[str]) -> list[str]:
    """Names of the nodes of these types whose second input is a weight.

    The products of two activations (attention) stay in float: quantized per tensor they cost the encoder half
    of its accuracy and little time is in them.

    Raises:
        Unavailable: there is none.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found = [node.name for node in model.graph.node if node.op_type in ops and node.input[1] in weights]
    if not found:
        raise Unavailable("model has no layer that this backend quantizes")
    return found


def _must_reduce_range(request: Request) -> bool:
    """Whether weights must keep to 7 bits, lest the CPU's 8-bit products saturate."""
    return request.device == "cpu" and not has_vnni()


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """The calibration rows in batches, as ONNX Runtime's quantizer reads them."""

    def __init__(self, request: Request, names: list[str], batch: int) -> None:
        self._feeds = (
            {name: t.numpy() for name, t in zip(names, rows, strict=True)}
            for rows in calibration_batches(request, batch)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)
