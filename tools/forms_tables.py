"""What ``pyprod ship`` made of each recipe file, from its newest record under ``results/forms/``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pyprod.measure import report, store

_HEAD = (
    "| workload, batch | forms | named failures | minutes | chosen | ms | of eager | metric, change | MB | A/A |\n"
    "|---|---:|---:|---:|---|---:|---:|---|---:|---:|"
)


def newest(results: Path) -> dict[str, Path]:
    """By workload, the newest record."""
    found: dict[str, Path] = {}
    for path in sorted((results / "forms").glob("*/choice.json")):
        found[json.loads(path.read_text())["workload"]] = path.parent
    return found


def table(results: Path) -> str:
    """A row for each workload and batch: how many forms, how long they took, and the one that was chosen."""
    found = newest(results)
    if not found:
        return "*Not measured yet.*\n"
    rows = [row for _, folder in sorted(found.items()) for row in _rows(folder)]
    machines: dict[str, list[str]] = {}
    for workload, folder in sorted(found.items()):
        machines.setdefault(store.read(folder).environment["cpu"]["model"], []).append(workload)
    where = "; ".join(f"{', '.join(workloads)}: {machine}" for machine, workloads in machines.items())
    caption = (
        f"*{where}. Shared virtual machines, one thread. `pyprod ship recipes/WORKLOAD.toml`; "
        "every form, its intervals and why it lost in [results/forms](../results/forms). Minutes: of measuring; ranges "
        "are 95% intervals. A/A: the same form measured twice; outside 0.97-1.03 no number of the row can be trusted.*"
    )
    return "\n".join([_HEAD, *rows, "", caption, ""])


def _rows(folder: Path) -> Iterator[str]:
    about, record = json.loads((folder / "choice.json").read_text()), store.read(folder)
    frame = report.summarize(record.measurements)
    times = [datetime.fromisoformat(m.taken_at) for m in record.measurements]
    minutes = (max(times) - min(times)).total_seconds() / 60
    for number, choice in enumerate(about["choices"]):
        cohort = frame[frame["candidate"].isin([*choice["judged"], *choice["lost"]])]
        yield _row(choice, cohort, minutes if number == 0 else None)


def _row(choice: dict[str, Any], cohort: pd.DataFrame, minutes: float | None) -> str:
    failed = int((cohort["status"] != "ok").sum())
    first = cohort.iloc[0]
    chosen = cohort[cohort["candidate"] == choice["chosen"]]
    took = "" if minutes is None else f"{minutes:.1f}"
    aa = f"{first['cohort_aa_ratio']:.3f}"
    start = f"| {first['workload']}, {first['batch']} | {len(cohort)} | {failed} | {took} |"
    if chosen.empty:
        return f"{start} none meets the demands | | | | | {aa} |"
    form = chosen.iloc[0]
    low, high = form["speedup_low"], form["speedup_high"]
    faster = "baseline" if form["baseline"] else f"{form['speedup']:.2f}x [{low:.2f}, {high:.2f}]"
    low, high = form["accuracy_difference_low"], form["accuracy_difference_high"]
    change = "as it is" if form["baseline"] else f"{form['accuracy_difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
    return (
        f"{start} `{form['form']}` | {form['latency_p50_ms']:.3g} | {faster} | "
        f"{form['statistic']} {form['accuracy']:.4g}, {change} | {form['artifact_mb']:.4g} | {aa} |"
    )
