"""The examples of CONTRIBUTING.md are whole files: put where they say, they work, and they keep our own style."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = re.compile(r"^```\w+\n(?:#|//) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = dict(EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text()))

BACKEND, WORKLOAD = "pyprod/backends/channels_last.py", "pyprod/workloads/breast_cancer.py"
KERNEL = ("csrc/squared_relu/ops.cpp", "pyprod/kernels/squared_relu.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The package by links, with every Python example in its place."""
    for path in (ROOT / "pyprod").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            link = tmp_path / path.relative_to(ROOT)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    for name in (BACKEND, WORKLOAD):
        (tmp_path / name).write_text(EXAMPLES[name])
    return tmp_path


def run(tree: Path, *command: str) -> str:
    environment = os.environ | {"PYPROD_CACHE": str(tree / "cache")}
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_one_of_each() -> None:
    assert set(EXAMPLES) == {BACKEND, WORKLOAD, *KERNEL}


def test_a_backend_and_a_workload_are_one_file_each(tree: Path) -> None:
    short = shlex.split("--rounds 3 --slice 0.01 --warmup 0.05 --out records --json")
    chosen = ("--workload", "breast_cancer", "--backend", "channels_last")
    measured = json.loads(run(tree, "-m", "pyprod", "bench", *chosen, *short))
    rows = {row["backend"]: row for row in measured["rows"]}
    assert rows["channels_last.fp32"]["status"] == "ok"
    assert rows["channels_last.fp32"]["accuracy"] > 0.98


def test_a_kernel_is_a_folder_and_a_file(tmp_path: Path) -> None:
    source, face = KERNEL
    (tmp_path / "ops.cpp").write_text(EXAMPLES[source])
    (tmp_path / "squared_relu.py").write_text(EXAMPLES[face])
    run(ROOT, str(ROOT / "tests/compile_op.py"), str(tmp_path / "ops.cpp"), str(tmp_path / "op.so"))
    code = f"""
import torch, pyprod.kernels
torch.ops.load_library({str(tmp_path / "op.so")!r})
pyprod.kernels.__path__.append({str(tmp_path)!r})
from pyprod.kernels.squared_relu import squared_relu, squared_relu_reference

for x in (torch.randn(1000, 37).t(), torch.empty(0, 3)):
    assert torch.equal(squared_relu(x), squared_relu_reference(x))
    torch.library.opcheck(torch.ops.pyprod.squared_relu.default, (x,))
assert squared_relu(torch.tensor([-1.0, torch.nan])).isnan().tolist() == [False, True]
try:
    squared_relu(torch.ones(3, dtype=torch.int64))
except RuntimeError as error:
    assert "squared_relu: x must be float32, got int64" in str(error), error
else:
    raise AssertionError("took int64")
"""
    run(ROOT, "-c", code)


def test_the_examples_keep_the_style(tree: Path) -> None:
    for command in (("check",), ("format", "--check")):
        run(ROOT, "-m", "ruff", *command, "--no-cache", "--config", str(ROOT / "pyproject.toml"), str(tree / BACKEND))
        run(ROOT, "-m", "ruff", *command, "--no-cache", "--config", str(ROOT / "pyproject.toml"), str(tree / WORKLOAD))
