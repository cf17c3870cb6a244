"""That `make sanitize` would see a mistake: one is planted in an op, found, and named with its line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SOURCE = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

using torch::stable::Tensor;

int64_t element_plus(const Tensor& x, int64_t at, int64_t more) {
  const int64_t* values = static_cast<const int64_t*>(x.const_data_ptr());
  const int64_t value = values[at];
  return value + more;
}

STABLE_TORCH_LIBRARY_FRAGMENT(planted, m) { m.def("element_plus(Tensor x, int at, int more) -> int"); }
STABLE_TORCH_LIBRARY_IMPL(planted, CPU, m) { m.impl("element_plus", TORCH_BOX(&element_plus)); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    source, library = folder / "planted.cpp", folder / "planted.so"
    source.write_text(SOURCE)
    command = [sys.executable, ROOT / "tests/compile_op.py", source, library]
    subprocess.run(command, env=os.environ | {"PYPROD_SANITIZE": "address,undefined"}, check=True)
    return library


@pytest.mark.parametrize(
    ("call", "report"),
    [
        ("at=2, more=1", None),
        ("at=3, more=1", "AddressSanitizer: heap-buffer-overflow"),
        ("at=2, more=2**63 - 1", "runtime error: signed integer overflow: 9223372036854775807 + 7"),
    ],
)
def test_a_planted_mistake_is_reported(library: Path, call: str, report: str | None) -> None:
    code = f"""
import torch
torch.ops.load_library({str(library)!r})
print(torch.ops.planted.element_plus(torch.tensor([5, 6, 7]), {call}))
"""
    command = [ROOT / "tools/sanitized", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if report is None:
        assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr
    else:
        assert done.returncode != 0
        assert report in done.stderr
        assert "planted.cpp:" in done.stderr


@pytest.mark.parametrize("call", ["at=3, more=1", "at=2, more=2**63 - 1"])
def test_pytest_hides_no_report(library: Path, tmp_path: Path, call: str) -> None:
    test = tmp_path / "test_planted.py"
    test.write_text(f"""
import torch
def test_planted():
    torch.ops.load_library({str(library)!r})
    torch.ops.planted.element_plus(torch.tensor([5, 6, 7]), {call})
""")
    makefile = (ROOT / "Makefile").read_text()
    assert "tools/sanitized $(BIN)/python -m pytest -q --capture=sys " in makefile
    command = [ROOT / "tools/sanitized", sys.executable, "-m", "pytest", "-q", "--capture=sys", "-c", os.devnull, test]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "planted.cpp:" in done.stderr


def test_a_compiler_without_the_runtime_is_one_line(tmp_path: Path) -> None:
    compiler = tmp_path / "cxx"
    compiler.write_text("#!/bin/sh\necho libasan.so\n")
    compiler.chmod(0o755)
    command = [ROOT / "tools/sanitized", "true"]
    done = subprocess.run(command, env=os.environ | {"CXX": str(compiler)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "has no libasan.so; install" in done.stderr
