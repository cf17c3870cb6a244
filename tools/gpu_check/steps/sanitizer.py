"""compute-sanitizer over every kernel on small shapes: memory, races, barriers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOLS = ("memcheck", "racecheck", "synccheck")
LIMIT_S = 30
#: One of each kernel and its edges.
PROGRAM = """
import torch
from pyprod import kernels
from tools.gpu_check import data
for m, n, k in [(3, 40, 300), (20, 130, 700), (100, 70, 260), (140, 260, 130)]:
    a, w = data.codes(m, k, "uniform"), data.codes(n, k, "uniform")
    packed = kernels.pack_weight(w)
    assert torch.equal(kernels.int8_gemm(a, packed), data.exact(a, w))
    x = torch.randn(m, k, device="cuda")
    kernels.int8_linear(x, packed, torch.rand(n, device="cuda"))
    kernels.layer_norm_quantize(x, None, None, 1e-5)
    kernels.gelu_quantize(x)
    kernels.int8_attention(*(torch.randn(1, 2, m, 40, device="cuda") for _ in range(3)))
torch.cuda.synchronize()
"""


def run(out: Path) -> dict[str, Any]:
    """What each tool says last, and its whole log beside the record."""
    if shutil.which("compute-sanitizer") is None:
        return {"skipped": "there is no compute-sanitizer", "wrong": []}
    said: dict[str, str] = {}
    wrong: list[str] = []
    for tool in TOOLS:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", PROGRAM]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            said[tool] = f"not done after {LIMIT_S} s"
            wrong.append(f"{tool}: {said[tool]}")
            continue
        (out / f"{tool}.log").write_text(done.stdout + done.stderr)
        said[tool] = (done.stdout.strip().splitlines() or ["no output"])[-1]
        if done.returncode != 0:
            wrong.append(f"{tool}: exit code {done.returncode}: {said[tool]}")
    return {"said": said, "wrong": wrong}
