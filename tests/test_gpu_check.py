"""make gpu-check without a GPU: its checks pass right kernels and name wrong ones; what it makes of samples."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pyprod import kernels
from tests.gpu.simulated import Nvml
from tools.gpu_check import data, table
from tools.gpu_check.steps import benchmark, correctness

ROOT = Path(__file__).parents[1]


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks against the CPU's own ops: a few of the shapes."""
    monkeypatch.setattr(data, "DEVICE", "cpu")
    monkeypatch.setattr(correctness, "ROWS", (1, 17))
    monkeypatch.setattr(correctness, "RANDOM_SHAPES", 5)
    monkeypatch.setattr(correctness, "REPEATS", 2)


@pytest.mark.usefixtures("on_the_cpu")
def test_right_kernels_pass(tmp_path: Path) -> None:
    found = correctness.run(tmp_path)
    assert found["wrong"] == []
    assert found["checked"]["sums"] == 2 * 8 + 5 + 5
    assert min(found["checked"].values()) >= 5


@pytest.mark.usefixtures("on_the_cpu")
def test_a_wrong_sum_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(a: torch.Tensor, packed: kernels.PackedWeight) -> torch.Tensor:
        sums = right(a, packed)
        sums.view(-1)[-1:] += 1
        return sums

    right = kernels.int8_gemm
    monkeypatch.setattr(kernels, "int8_gemm", off_by_one)
    wrong = correctness.run(tmp_path)["wrong"]
    assert "int8_gemm: m=4096 n=4096 k=4096" in wrong
    assert "int8_gemm of transposed" in wrong
    assert "int8_gemm: m=0 n=40 k=40" not in wrong


def test_throttled_samples_are_left_out_and_counted() -> None:
    nvml, found = Nvml(), {"ns": [], "throttled": 0, "sm_mhz": []}
    gpu = benchmark.telemetry.Gpu(nvml, None)
    watch = SimpleNamespace(sample=lambda count, ns: [1000] * count)
    benchmark._slice(watch, found, gpu)
    nvml.state["reasons"] = 0x4  # power cap
    benchmark._slice(watch, found, gpu)
    assert found["ns"] == [1000] * benchmark.SAMPLES
    assert found["throttled"] == benchmark.SAMPLES
    assert len(found["sm_mhz"]) == 2


def test_a_peer_that_refuses_is_there_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(problem: object) -> None:
        raise RuntimeError("self.size(0) needs to be greater than 16\nand more")

    monkeypatch.setitem(benchmark.GROUPS, "sums", {"pyprod": lambda p: None, "_int_mm": refuses})
    monkeypatch.setattr(benchmark, "Stopwatch", lambda call: SimpleNamespace(graph=True, sample=lambda n, ns: [7]))
    monkeypatch.setattr(benchmark.torch.cuda, "synchronize", lambda: None)
    found = benchmark._measure(None, "sums", None, random.Random(0))
    assert found["_int_mm"] == {"error": "self.size(0) needs to be greater than 16"}
    assert found["pyprod"]["ns"] == [7] * benchmark.ROUNDS


def peer(us: float, throttled: int = 0) -> dict[str, object]:
    return {"ns": [us * 1e3], "throttled": throttled, "sm_mhz": [], "graph": True}


def test_the_table_compares_with_the_best_peer(tmp_path: Path) -> None:
    rows = [
        {"group": "sums", "m": 1, "n": 8, "k": 4, "peers": {"pyprod": peer(2), "a": peer(3, 4), "b": peer(2.5)}},
        {"group": "sums", "m": 2, "n": 8, "k": 4, "peers": {"pyprod": peer(4), "a": {"error": "no"}, "b": peer(2)}},
        {"group": "sums", "m": 3, "n": 8, "k": 4, "peers": {"pyprod": peer(4), "a": {"error": "no"}}},
    ]
    (tmp_path / "benchmark.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "correctness.json").write_text(json.dumps({"checked": {"sums": 10, "rows": 2}, "wrong": ["one"]}))
    text = table.markdown(tmp_path)
    assert "Ceilings: not measured." in text
    assert "Correct: 11 of 12 checks." in text
    assert "| 1 x 8 x 4 | 2.0 | 3.0 (4 throttled) | 2.5 | 1.25 |" in text
    assert "| 3 x 8 x 4 | 4.0 | refused |  |  |" in text
    assert "Geometric mean 0.79, worst 0.50." in text
    assert [row["m"] for row in table.worst(rows, 1)] == [2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.gpu_check"], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gpu-check: ")
    assert len(done.stderr.splitlines()) == 1
