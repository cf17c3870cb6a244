"""Every peer of a shape in turns: graph replays, a cold second level cache, throttled samples left out."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pyprod.gpu import present, telemetry
from pyprod.gpu.timing import Stopwatch
from pyprod.types import PyprodError
from tools.gpu_check.peers import GROUPS, Problem

#: (n, k) of Llama-8B's layers and BERT-base's.
LAYERS = ((4096, 4096), (14336, 4096), (4096, 14336), (6144, 4096), (768, 768), (3072, 768), (768, 3072))
ROWS = (1, 2, 4, 8, 16, 17, 32, 64, 128, 512, 2048, 8192)
ROUNDS, SAMPLES, SLICE_NS = 3, 15, 60_000_000
#: Seconds after which no further shape begins: those that are left are named.
BUDGET_S = 170
#: The largest shapes first, then small m: what a cut run lacks is the middle.
ORDER = (8192, 1, 16, 17, 2048, 8, 128, 32, 64, 512, 2, 4)


def run(_out: Path) -> dict[str, Any]:
    """Raw samples in ns by group, shape and peer; a peer that can't is there with the reason."""
    gpu = telemetry.gpu(present.uuid())
    rng, deadline = random.Random(0), time.monotonic() + BUDGET_S
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for m, n, k, group in _everything():
        if time.monotonic() > deadline:
            left_out.append(f"{group} {m}x{n}x{k}")
            continue
        rows.append({"group": group, "m": m, "n": n, "k": k, "peers": _measure(Problem(m, n, k), group, gpu, rng)})
    biases = gpu.biases([os.getpid()]) if gpu else ["no NVML: throttling not seen"]
    return {"rows": rows, "left_out": left_out, "biases": biases}


def _everything() -> Iterator[tuple[int, int, int, str]]:
    yield 8192, 8192, 8192, "sums"
    for m in ORDER:
        for n, k in LAYERS:
            for group in GROUPS:
                yield m, n, k, group


def _measure(problem: Problem, group: str, gpu: telemetry.Gpu | None, rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    watches: dict[str, Stopwatch] = {}
    for name, make in GROUPS[group].items():
        try:
            watches[name] = Stopwatch(make(problem))
            found[name] = {"ns": [], "throttled": 0, "sm_mhz": [], "graph": watches[name].graph}
        except (RuntimeError, PyprodError) as error:
            torch.cuda.synchronize()
            found[name] = {"error": str(error).splitlines()[0]}
    for _ in range(ROUNDS):
        for name in rng.sample(sorted(watches), len(watches)):
            _slice(watches[name], found[name], gpu)
    return found


def _slice(watch: Stopwatch, found: dict[str, Any], gpu: telemetry.Gpu | None) -> None:
    if gpu is None:
        found["ns"] += watch.sample(SAMPLES, SLICE_NS)
        return
    with telemetry.watched(gpu) as watched:
        samples = watch.sample(SAMPLES, SLICE_NS)
    about = watched.summary()
    if about["throttled"]:
        found["throttled"] += len(samples)
    else:
        found["ns"] += samples
    found["sm_mhz"].append(about.get("sm_mhz"))
