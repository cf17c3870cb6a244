"""Our kernel in ONNX Runtime: the same bits as in torch, and nothing of torch behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from pyprod import kernels
from pyprod.export.onnx_native import LIBRARY


def file(packed: Tensor, scale: Tensor, bias: Tensor | None, activation: str, rank: int = 2, **said: str) -> bytes:
    """A graph of one Int8Linear, which says nothing of its quantization, as older files, unless `said`."""
    constants = {"packed": packed, "scale": scale} | ({} if bias is None else {"bias": bias})
    node = helper.make_node("Int8Linear", ["x", *constants], ["y"], domain="pyprod", activation=activation, **said)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name in "xy")
    held = [numpy_helper.from_array(t.numpy(), name) for name, t in constants.items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("pyprod", 1)]
    graph = helper.make_graph([node], "layer", [x], [y], held)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(LIBRARY))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def layer(n: int, k: int) -> tuple[kernels.PackedWeight, Tensor, Tensor]:
    weight = torch.randint(-128, 128, (n, k), dtype=torch.int8)
    return kernels.pack_weight(weight), torch.rand(n) / 100, torch.randn(n)


SHAPES = [(1, 1, 1), (1, 31, 3), (7, 33, 65), (64, 32, 64), (129, 100, 257), (300, 1536, 384), (2, 3000, 768)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_the_same_bits_as_in_torch(m: int, n: int, k: int, threads: int) -> None:
    packed, scale, bias = layer(n, k)
    x = torch.randn(m, k)
    x[0, 0] = 1e4
    for activation in ("none", "relu", "gelu", "gelu_tanh", "silu"):
        named = None if activation == "none" else activation
        for added in (bias, None):
            (got,) = session(file(packed.data, scale, added, activation), threads).run(None, {"x": x.numpy()})
            assert np.array_equal(got, kernels.int8_linear(x, packed, scale, added, named).numpy())


def test_leading_dimensions_nan_and_nothing_at_all() -> None:
    packed, scale, bias = layer(40, 50)
    run = session(file(packed.data, scale, bias, "none", 4))
    x = torch.randn(3, 2, 5, 50)
    x[1, 0, 2, 7] = torch.nan
    (got,) = run.run(None, {"x": x.numpy()})
    assert np.array_equal(got, kernels.int8_linear(x, packed, scale, bias).numpy(), equal_nan=True)
    assert np.isnan(got[1, 0, 2]).all()
    assert np.isnan(got).sum() == 40
    assert run.run(None, {"x": np.empty((3, 0, 5, 50), np.float32)})[0].shape == (3, 0, 5, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": torch.rand(39)}, r"bias must be \[39\], got \[40\]"),
        ({"scale": torch.rand(65)}, r"packed must be \[3, 14, 32, 4\], got \[2, 14, 32, 4\]"),
        ({"scale": torch.rand(5, 8)}, r"w_scale must be \[N\]"),
        ({"bias": torch.randn(1)}, r"bias must be \[40\], got \[1\]"),
    ],
)
def test_wrong_constants_are_named(change: dict[str, Tensor], message: str) -> None:
    packed, scale, bias = layer(40, 50)
    model = file(**{"packed": packed.data, "scale": scale, "bias": bias, "activation": "none"} | change)
    with pytest.raises(Exception, match=message):
        session(model).run(None, {"x": np.zeros((2, 50), np.float32)})


def test_wrong_inputs_are_named() -> None:
    packed, scale, bias = layer(40, 50)
    with pytest.raises(Exception, match="activation must be none, relu, gelu, gelu_tanh or silu, got tanh"):
        session(file(packed.data, scale, bias, "tanh"))
    with pytest.raises(Exception, match="quantization must be symmetric or asymmetric, got lopsided"):
        session(file(packed.data, scale, bias, "none", quantization="lopsided"))
    with pytest.raises(Exception, match=r"packed must be \[2, 15, 32, 4\]"):
        session(file(packed.data, scale, bias, "none")).run(None, {"x": np.zeros((2, 55), np.float32)})
    with pytest.raises(Exception, match="got a scalar"):
        session(file(packed.data, scale, bias, "none", 0)).run(None, {"x": np.array(1, np.float32)})


def test_who_has_onnx_runtime_needs_no_torch(tmp_path: Path) -> None:
    packed, scale, bias = layer(40, 50)
    (tmp_path / "layer.onnx").write_bytes(file(packed.data, scale, bias, "gelu"))
    onnx.checker.check_model(tmp_path / "layer.onnx", full_check=True)
    script = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(sys.argv[1])
session = onnxruntime.InferenceSession("layer.onnx", options, providers=["CPUExecutionProvider"])
print(session.run(None, {"x": numpy.ones((1, 50), numpy.float32)})[0].tobytes().hex())
assert "torch" not in sys.modules
assert "torch" not in open("/proc/self/maps").read()
"""
    command = [sys.executable, "-c", script, str(LIBRARY)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    want = kernels.int8_linear(torch.ones(1, 50), packed, scale, bias, "gelu")
    assert bytes.fromhex(done.stdout) == want.numpy().tobytes()
