"""OpenVINO's CPU plugin, latency hint, one stream: calibrated INT8, int8 weights with dynamic quantization, bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from torch import Tensor

from pyprod.environment import cpu
from pyprod.kernel_suite.peers import Prepared, Variant
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.openvino_core import core
from pyprod.types import Unavailable

_LINEARS = ("linear", "linear_cold")
VARIANTS = {
    "int8": Variant(_LINEARS, "int8", "FakeQuantize: activations per tensor with calibrated range, weights int8"),
    "int8_weights": Variant(("linear",), "int8", "int8 weights decompressed, rows quantized per token in the plugin"),
    "bf16": Variant(("linear",), "bfloat16", "inference precision bf16"),
}

#: Rows are Gaussian: the largest of a few thousand values lies near 4.5 deviations. Calibration finds such a range.
_RANGE = 4.5
_LEVELS = 256


def available(variant: str) -> Unavailable | None:
    """Why `variant` can't run here, or None."""
    if variant == "bf16" and not {"avx512_bf16", "amx_bf16"} & set(cpu()["flags"]):
        return Unavailable("the CPU has neither AVX512-BF16 nor AMX")
    return None


def prepare(problem: Linear, variant: str, threads: int, workdir: Path) -> Prepared:
    """The graph with its weights; compiled for each number of rows, as a server with known shapes would."""
    x = ops.parameter([-1, problem.k], np.float32)
    rows: Any = x
    if variant == "int8":
        ends = [np.float32(-_RANGE), np.float32(_RANGE * (_LEVELS - 2) / _LEVELS)]  # a zero point that is an integer
        low, high = (ops.constant(end) for end in ends)
        rows = ops.fake_quantize(x, low, high, low, high, _LEVELS)
    if variant == "bf16":
        weight = ops.constant(problem.weight.numpy())
    else:
        codes = ops.convert(ops.constant(problem.w_q.numpy()), np.float32)
        weight = ops.multiply(codes, ops.constant(problem.w_scale.numpy()[:, None]))
    y = ops.add(ops.matmul(rows, weight, False, True), ops.constant(problem.bias.numpy()[None]))
    return OpenVino(ov.Model([y], [x]), variant, threads)


class OpenVino:
    """A model compiled for each shape; rows and result are the caller's memory, not copies."""

    def __init__(self, model: ov.Model, variant: str, threads: int) -> None:
        self._model = model
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": ov.Type.bf16 if variant == "bf16" else ov.Type.f32,
        }
        if variant == "int8_weights":
            self._config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(2**64 - 1)  # whole rows

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """Compile for these rows."""
        (x,) = inputs
        self._model.reshape(list(x.shape))
        request = core().compile_model(self._model, "CPU", self._config).create_infer_request()
        rows = ov.Tensor(x.numpy(), shared_memory=True)
        request.set_input_tensor(rows)
        output = np.empty(request.model_outputs[0].shape, np.float32)
        request.set_output_tensor(ov.Tensor(output, shared_memory=True))
        start, wait = request.start_async, request.wait

        def call() -> object:
            start()
            wait()
            return output

        call.keep = (x, rows)  # type: ignore[attr-defined]
        return call

    def tensors(self, output: Any) -> tuple[Tensor, ...]:
        """The result as a tensor."""
        return (torch.from_numpy(output),)
