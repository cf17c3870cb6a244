"""Table of the study of perplexity under ``results/perplexity/``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pyprod.workloads.decoder import LENGTH

ROWS, ENVIRONMENT = "rows.jsonl", "environment.json"

FLOAT = "float32"
#: By form, what is said of it.
FORMS = {
    FLOAT: "as published",
    "smooth, 8 bits": "smoothed; all linears and attention in INT8, activations per token",
    "4-bit weights": "in groups of 32, the head's 8 bits; not smoothed; activations and attention as above",
}


def table(results: Path) -> str:
    """A row per form, from the newest study."""
    found = sorted((results / "perplexity").glob(f"*/{ROWS}"))
    if not found:
        return "*Not measured yet.*\n"
    folder = found[-1].parent
    rows = [json.loads(line) for line in found[-1].read_text().splitlines()]
    surprise = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    lines = ["| decoder | perplexity | above float32 | |", "|---|---:|---|---|"]
    for name, values in surprise.items():
        rise = "" if name == FLOAT else _rise(values - surprise[FLOAT])
        lines.append(f"| {name} | {math.exp(values.mean()):.2f} | {rise} | {FORMS[name]} |")
    cpu = json.loads((folder / ENVIRONMENT).read_text())["cpu"]["model"]
    path = f"results/perplexity/{folder.name}"
    return (
        "\n".join(lines)
        + f"\n\n*{cpu}, a shared virtual machine. {len(rows) * (LENGTH - 1):,} predictions, in {len(rows)} stretches "
        "that calibrated nothing; 95% intervals by Student's t over the stretches, each against its own in float32. "
        f"`python -m tools.perplexity_study {path}`, [{path}](../{path}).*\n"
    )


def _rise(differences: NDArray[np.float64]) -> str:
    mean, error = float(differences.mean()), float(stats.sem(differences))
    reach = error * float(stats.t.ppf(0.975, len(differences) - 1))
    value, low, high = (100 * math.expm1(end) for end in (mean, mean - reach, mean + reach))
    return f"{value:+.2f}% [{low:.2f}, {high:.2f}]"
