"""Nsight Compute on the shapes where ours is furthest behind the best peer: what holds it back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.gpu_check import table

WORST, LIMIT_S = 3, 18
PROGRAM = """
import sys
from tools.gpu_check.peers import GROUPS, Problem
group, m, n, k = sys.argv[1], *map(int, sys.argv[2:])
call = GROUPS[group]["pyprod"](Problem(m, n, k))
for _ in range(3):
    call()
"""
SECTIONS = ("SpeedOfLight", "WarpStateStats", "MemoryWorkloadAnalysis")


def run(out: Path) -> dict[str, Any]:
    """Reports as text beside the record; the shapes, and what went wrong if so."""
    if shutil.which("ncu") is None:
        return {"skipped": "there is no ncu", "wrong": []}
    benchmark = out / "benchmark.json"
    if not benchmark.is_file():
        return {"skipped": "nothing was measured", "wrong": []}
    worst = table.worst(json.loads(benchmark.read_text())["rows"], WORST)
    said = {}
    for row in worst:
        shape = [str(row[name]) for name in ("m", "n", "k")]
        sections = [part for section in SECTIONS for part in ("--section", section)]
        command = ["ncu", "--clock-control", "none", "--kernel-name", "regex:wgmma_kernel|mma_kernel"]
        command += ["--launch-skip", "2", "--launch-count", "1", *sections]
        command += [sys.executable, "-c", PROGRAM, row["group"], *shape]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
            (out / f"ncu-{row['group']}-{'x'.join(shape)}.txt").write_text(done.stdout + done.stderr)
            said["x".join(shape)] = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            said["x".join(shape)] = f"not done after {LIMIT_S} s"
    return {"said": said, "wrong": []}  # a profiler that does not work here is no fault of the kernels
