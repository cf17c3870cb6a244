"""A library that is missing or broken is one clear line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyprod
import pyprod.kernels

PACKAGE = Path(pyprod.__file__).parent


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Unavailable: pyprod's extension is not built (run: make build)"),
        (b"not a library", "Unavailable: pyprod's extension does not load: "),
    ],
)
def test_import_without_a_library(tmp_path, content, message):
    copy = tmp_path / "pyprod"
    copy.mkdir()
    for name in ("__init__.py", "types.py", "discover.py"):
        shutil.copy(PACKAGE / name, copy)
    shutil.copytree(PACKAGE / "kernels", copy / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    if content is not None:
        (copy / "libpyprod.so").write_bytes(content)
    here = {name: value for name, value in os.environ.items() if name != "PYPROD_LIBRARY"}
    command = [sys.executable, "-c", "import pyprod.kernels"]
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert message in done.stderr.strip().splitlines()[-1]


#: Ops that have CUDA kernels (docs/kernels-cuda.md).
CUDA = [
    "add_layer_norm", "add_layer_norm_quantize", "add_rms_norm", "add_rms_norm_quantize", "gelu_quantize",
    "int8_attention", "int8_attention_packed", "int8_gemm",
    "int8_linear", "int8_linear_prequantized", "int8_linear_static", "layer_norm_quantize", "quantize_per_token",
    "rms_norm_quantize", "silu_mul_quantize",
]  # fmt: skip


def test_cuda_kernels_are_registered_on_any_torch():
    library = Path(os.environ.get("PYPROD_LIBRARY", PACKAGE / "libpyprod.so"))  # make sanitize builds for the CPU alone
    if b"sm_90a" not in library.read_bytes():
        pytest.skip("built without CUDA")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert [op for op in CUDA if not has(f"pyprod::{op}", "CUDA")] == []
