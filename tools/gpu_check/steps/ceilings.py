"""What this GPU can do at most, measured: the numbers that all others are a share of."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyprod.gpu.timing import Stopwatch
from tools.gpu_check import cublaslt, data

SAMPLES = 20
SIZE = 8192


def run(_out: Path) -> dict[str, Any]:
    """Bytes and operations per second."""
    return {"copy_gb_s": copy(), "bf16_tflops": bf16(), "int8_tops": int8()}


def seconds(call: Callable[[], object]) -> float:
    """Median of cold calls."""
    return statistics.median(Stopwatch(call).sample(SAMPLES, 2_000_000_000)) / 1e9


def copy() -> float:
    """Of 4 GiB, bytes read and written."""
    source = torch.randint(256, (1 << 32,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source)) / 1e9


def bf16() -> dict[str, float]:
    """The library's matrix product of 8192^3, on Gaussian values and on zeros, which draw less power."""
    found = {}
    for kind, scale in {"gaussian": 1.0, "zeros": 0.0}.items():
        a, b = (torch.randn(SIZE, SIZE, dtype=torch.bfloat16, device="cuda") * scale for _ in range(2))
        found[kind] = 2 * SIZE**3 / seconds(lambda a=a, b=b: a @ b) / 1e12
    return found


def int8() -> dict[str, Any]:
    """cuBLASLt's best algorithm for 8192^3, by kind of data."""
    found: dict[str, Any] = {}
    for kind in ("gaussian", "uniform", "zeros"):
        a, w = data.codes(SIZE, SIZE, kind), data.codes(SIZE, SIZE, kind)
        times = [seconds(call) for call in cublaslt.calls(a, w)]
        found[kind] = {"tops": 2 * SIZE**3 / min(times) / 1e12, "algorithms": len(times)}
    return found
