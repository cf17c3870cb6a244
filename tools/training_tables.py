"""Tables of the trainings under ``results/training/``: arms of a study side by side, over their seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

RUNS, ENVIRONMENT = "runs.jsonl", "environment.json"

_Run = dict[str, Any]

#: Of a metric: what rounding must have cost for a share of it to mean something.
_WORTH_A_SHARE = 0.005


def distill(results: Path) -> str:
    """A row per workload: the student with its teacher and without."""
    head = ["| workload | parameters | teacher | student, with it | alone | difference | seeds |"]
    head.append("|---|---:|---:|---:|---:|---|---:|")
    return _table(results, "distill", head, _distill_row)


def bfloat16(results: Path) -> str:
    """A row per workload: trained in both arithmetics."""
    head = ["| workload | float32 | bfloat16 | difference | float32 s | bfloat16 s | seeds |"]
    head.append("|---|---:|---:|---|---:|---:|---:|")
    return _table(results, "bfloat16", head, _bfloat16_row)


def qat(results: Path) -> str:
    """A row per workload: rounded as it is, and trained under the rounding."""
    head = [
        "| workload | weights | float | rounded | trained under it | won back | difference, trained − float | seeds |"
    ]
    head.append("|---|---:|---:|---:|---:|---:|---|---:|")
    return _table(results, "qat", head, _qat_row)


def _table(results: Path, study: str, head: list[str], row: Any) -> str:
    found = sorted((results / "training").glob(f"*/{RUNS}"))
    if not found:
        return "*Not measured yet.*\n"
    folder = found[-1].parent
    runs = [r for line in found[-1].read_text().splitlines() if (r := json.loads(line))["study"] == study]
    arms = len({run["arm"] for run in runs})
    seen = {
        name: {r["arm"] for r in runs if r["workload"] == name} for name in dict.fromkeys(r["workload"] for r in runs)
    }
    names = [name for name, found in seen.items() if len(found) == arms]  # none that has just begun
    lines = [*head, *(row(name, [run for run in runs if run["workload"] == name]) for name in names)]
    cpu = json.loads((folder / ENVIRONMENT).read_text())["cpu"]["model"]
    return (
        "\n".join(lines)
        + f"\n\n*{cpu}, a shared virtual machine, one thread. Means over seeds; the difference is paired by "
        "seed, with Student's 95% interval. Seconds are medians of trainings one after the other, beside other work: "
        "a hint. "
        f"`python -m tools.training_study results/training/{folder.name} --study {study} "
        f"--workload ...`; each training in [results/training/{folder.name}](../results/training/{folder.name}).*\n"
    )


def _distill_row(name: str, runs: Sequence[_Run]) -> str:
    with_it, alone = _arm(runs, "with teacher"), _arm(runs, "alone")
    seeds = sorted(with_it.keys() & alone.keys())
    one, other = (np.array([arm[s]["metric"] for s in seeds]) for arm in (with_it, alone))
    share, teacher = runs[0]["parameters"], runs[0]["teacher"]
    cells = [f"{share:.0%}", f"{teacher:.4f}", f"{one.mean():.4f}", f"{other.mean():.4f}", _paired(one - other)]
    return f"| {name} | {' | '.join(cells)} | {len(seeds)} |"


def _bfloat16_row(name: str, runs: Sequence[_Run]) -> str:
    wide, narrow = _arm(runs, "float32"), _arm(runs, "bfloat16")
    seeds = sorted(wide.keys() & narrow.keys())
    one, other = (np.array([arm[s]["metric"] for s in seeds]) for arm in (wide, narrow))
    seconds = [np.median([arm[s]["seconds"] for s in seeds]) for arm in (wide, narrow)]
    cells = [f"{one.mean():.4f}", f"{other.mean():.4f}", _paired(other - one), *(f"{s:.0f}" for s in seconds)]
    return f"| {name} | {' | '.join(cells)} | {len(seeds)} |"


def _qat_row(name: str, runs: Sequence[_Run]) -> str:
    rounded, trained = _arm(runs, "rounded"), _arm(runs, "trained")
    seeds = sorted(rounded.keys() & trained.keys())
    before, after = (np.array([arm[s]["metric"] for s in seeds]) for arm in (rounded, trained))
    whole = runs[0]["float"]
    lost = whole - before.mean()
    back = f"{(after.mean() - before.mean()) / lost:.0%}" if lost > _WORTH_A_SHARE else ""
    cells = [f"{runs[0]['bits']} bits", *(f"{x:.4f}" for x in (whole, before.mean(), after.mean())), back]
    return f"| {name} | {' | '.join(cells)} | {_paired(after - whole)} | {len(seeds)} |"


def _arm(runs: Sequence[_Run], name: str) -> dict[int, _Run]:
    return {run["seed"]: run for run in runs if run["arm"] == name}


def _paired(differences: np.ndarray) -> str:
    mean = float(differences.mean())
    if len(differences) < 2 or not differences.std():
        return f"{mean:+.4f}"
    half = float(stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences))
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"
