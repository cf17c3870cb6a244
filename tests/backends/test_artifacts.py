"""`artifact_bytes` is the size of what lies on disk, as production would ship it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyprod import backends
from pyprod.backends import Request


@pytest.mark.parametrize(
    ("backend", "files"),
    [
        ("eager.fp32", ["model.safetensors"]),
        ("torchscript.frozen", ["model.pt"]),
        ("torch_quantized.x86", ["model.pt"]),
        ("native.int8", ["model.safetensors"]),
        ("onnxruntime.int8_dynamic", ["int8_dynamic.onnx"]),
        ("openvino.int8", ["model.xml", "model.bin"]),
    ],
)
def test_artifact_bytes(request_for: Callable[..., Request], backend: str, files: list[str]) -> None:
    module, variant = backends.split(backend)
    request = request_for("mlp", variant)
    runner = module.prepare(request)
    assert runner.artifact_bytes == sum((request.workdir / file).stat().st_size for file in files)


def test_the_shared_onnx_file_counts_whole(request_for: Callable[..., Request]) -> None:
    module, variant = backends.split("onnxruntime.fp32")
    request = request_for("mlp", variant)
    assert module.prepare(request).artifact_bytes in {path.stat().st_size for path in request.cache.glob("*.onnx")}
