"""ONNX Runtime's CPU provider: graphs written op by op, with weights that its kernels pack when the session starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from pyprod.kernel_suite.peers import Prepared, Variant
from pyprod.kernel_suite.problems.gemm import Gemm
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

_LINEARS = ("linear", "linear_cold")
VARIANTS = {
    "dynamic": Variant(_LINEARS, "int8", "DynamicQuantizeMatMul u8s8: activations per tensor, weights per channel"),
    "qdq": Variant(("linear",), "int8", "QGemm u8s8 from QDQ: activations per tensor with calibrated range, float out"),
    "nbits8": Variant(("linear",), "int8", "MatMulNBits, 8 bits, blocks of 32 along K, accuracy level 4 (int8)"),
    "matmul_integer": Variant(("gemm",), "int8", "MatMulInteger u8s8: rows moved by +128 beforehand, zero point 128"),
}

#: Rows are Gaussian: the largest of a few thousand values lies near 4.5 deviations. Calibration finds such a range.
_RANGE_STEP = np.float32(9.0 / 255)
_BLOCK = 32


def available(variant: str) -> Unavailable | None:
    """None: the CPU provider is always there."""
    return None


def prepare(problem: Linear | Gemm, variant: str, threads: int, workdir: Path) -> Prepared:
    """A session over the graph of the variant."""
    path = workdir / f"{variant}.onnx"
    if isinstance(problem, Gemm):
        onnx.save(_matmul_integer(problem), str(path))
    else:
        onnx.save({"dynamic": _dynamic, "qdq": _qdq, "nbits8": _nbits8}[variant](problem), str(path))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    path.unlink()
    return Session(session, problem)


class Session:
    """A session whose rows and result stay in place."""

    def __init__(self, session: ort.InferenceSession, problem: Linear | Gemm) -> None:
        self._session, self._exact, self._n = session, isinstance(problem, Gemm), problem.n

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """Bind rows and a result of their number."""
        x = inputs[0].numpy()
        if self._exact:
            x = (x.astype(np.int16) + 128).astype(np.uint8)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        kind = np.int32 if self._exact else np.float32
        output = ort.OrtValue.ortvalue_from_shape_and_type([len(x), self._n], kind)
        binding.bind_ortvalue_output("y", output)
        run = self._session.run_with_iobinding

        def call() -> object:
            run(binding)
            return output

        call.keep = x  # type: ignore[attr-defined]
        return call

    def tensors(self, output: Any) -> tuple[Tensor, ...]:
        """The result as a tensor."""
        return (torch.from_numpy(output.numpy()),)


def _dynamic(problem: Linear) -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "w_scale"], ["both"]),
        helper.make_node("Mul", ["float", "both"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    constants = {"w": _columns(problem), "w_scale": problem.w_scale.numpy(), "bias": problem.bias.numpy()}
    return _model(nodes, constants, problem)


def _qdq(problem: Linear) -> onnx.ModelProto:
    w_scale = problem.w_scale.numpy()
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "middle"], ["rows"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["weight"], axis=1),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["offset"], axis=0),
        helper.make_node("Gemm", ["rows", "weight", "offset"], ["y"]),
    ]
    b_scale = w_scale * _RANGE_STEP
    constants = {
        "step": np.array(_RANGE_STEP),
        "middle": np.array(128, np.uint8),
        "w": _columns(problem),
        "w_scale": w_scale,
        "w_zero": np.zeros(problem.n, np.int8),
        "b": np.rint(problem.bias.numpy() / b_scale).astype(np.int32),
        "b_scale": b_scale,
        "b_zero": np.zeros(problem.n, np.int32),
    }
    return _model(nodes, constants, problem)


def _nbits8(problem: Linear) -> onnx.ModelProto:
    blocks = -(-problem.k // _BLOCK)
    codes = np.full((problem.n, blocks * _BLOCK), 128, np.uint8)
    codes[:, : problem.k] = (problem.w_q.numpy().astype(np.int16) + 128).astype(np.uint8)
    attributes = {"K": problem.k, "N": problem.n, "bits": 8, "block_size": _BLOCK, "accuracy_level": 4}
    nodes = [
        helper.make_node("MatMulNBits", ["x", "w", "w_scale"], ["product"], domain="com.microsoft", **attributes),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    scales = np.repeat(problem.w_scale.numpy(), blocks).reshape(problem.n, blocks)
    constants = {"w": codes.reshape(problem.n, blocks, _BLOCK), "w_scale": scales, "bias": problem.bias.numpy()}
    return _model(nodes, constants, problem)


def _matmul_integer(problem: Gemm) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMulInteger", ["x", "w", "middle"], ["y"])]
    constants = {"w": _columns(problem), "middle": np.array(128, np.uint8)}
    return _model(nodes, constants, problem, TensorProto.UINT8, TensorProto.INT32)


def _columns(problem: Linear | Gemm) -> NDArray[np.int8]:
    return np.ascontiguousarray(problem.w_q.numpy().T)


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
    problem: Linear | Gemm,
    rows: int = TensorProto.FLOAT,
    result: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", rows, ["m", problem.k])],
        [helper.make_tensor_value_info("y", result, ["m", problem.n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
