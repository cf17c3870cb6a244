"""What the runs of a study amount to: rates with exact intervals, as Markdown. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from tools.gate_study.variants import WHOLE, WORKS

Run = Mapping[str, Any]
_TIMES = ("latency", "throughput")
#: A correlation from fewer rows says nothing.
ENOUGH_ROWS = 100


def rate(hits: int, total: int) -> str:
    """A share with its exact 95% interval (Clopper and Pearson 1934)."""
    if not total:
        return "not measured yet"
    low = stats.beta.ppf(0.025, hits, total - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, total - hits) if hits < total else 1.0
    return f"{hits} of {total} ({100 * hits / total:.1f}% [{100 * low:.1f}, {100 * high:.1f}])"


def to_markdown(plan: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """All tables."""
    gates = [run for run in runs if run.get("tool", "gate") == "gate"]
    parts = [false_alarms(plan, gates), power(plan, gates), costs(plan, gates), compared(plan, runs)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def compared(plan: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    """The tools side by side, by their latencies: at their own limits, and at the best that hindsight could choose."""
    tools = sorted({run.get("tool", "gate") for run in runs})
    if len(tools) < 2:
        return []
    lines = [
        "| tool | limit | suites that failed, nothing changed | slower rows found | seconds, median |",
        "|---|---|---|---|---:|",
    ]
    for tool in tools:
        mine = [run for run in runs if run.get("tool", "gate") == tool]
        nulls = [run for run in mine if not plan["variants"][run["variant"]]]
        slower = [row for run in mine if run["variant"] != WHOLE for row in _slower(plan, run)]
        wall = np.median([run["wall_s"] for run in mine])
        failed = sum(any(row["verdict"] == "FAIL" for row in _latencies(run)) for run in nulls)
        found = sum(row["verdict"] == "FAIL" for row in slower)
        lines.append(f"| {tool} | its own | {rate(failed, len(nulls))} | {rate(found, len(slower))} | {wall:.0f} |")
        if tool != "gate" and nulls:
            limit = max(row["ratio"] for run in nulls for row in _latencies(run))
            found = sum(row["ratio"] > limit for row in slower)
            lines.append(
                f"| | {100 * (limit - 1):.1f}%: no suite fails | 0 of {len(nulls)} | {rate(found, len(slower))} | |"
            )
    return lines


def _latencies(run: Run) -> list[Mapping[str, Any]]:
    return [row for row in run["rows"] if row["metric"] == "latency"]


def _slower(plan: Mapping[str, Any], run: Run) -> list[Mapping[str, Any]]:
    """The rows of the benchmarks that the variant slows down."""
    return [row for row in _latencies(run) if row["benchmark"] in plan["variants"][run["variant"]]]


def false_alarms(plan: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    """By edit that changes nothing, how often a suite or a row failed."""
    lines = [
        "| edit that changes nothing | suites that failed | rows that failed | rows undecided |",
        "|---|---|---|---|",
    ]
    nulls = [name for name, counts in plan["variants"].items() if not counts]
    if not any(run["variant"] in nulls for run in runs):
        return []
    for name in [*nulls, "all"]:
        found = [run for run in runs if run["variant"] in (nulls if name == "all" else [name])]
        rows = [row for run in found for row in run["rows"]]
        failed = sum(row["verdict"] == "FAIL" for row in rows)
        undecided = sum(row["verdict"] == "UNDECIDED" for row in rows)
        suites = sum(run["verdict"] == "FAIL" for run in found)
        lines.append(
            f"| {name} | {rate(suites, len(found))} | {rate(failed, len(rows))} | {rate(undecided, len(rows))} |"
        )
    return lines


def power(plan: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    """By benchmark and how much work was added: how often its row failed, what was estimated, what intervals held."""
    lines = [
        "| work added | slower by | failed | passed | undecided | estimate, mean | 95% intervals that hold it |",
        "|---|---:|---|---:|---:|---:|---|",
    ]
    found = added(plan, runs)
    judged: list[tuple[float, bool, bool]] = []  # slower by, failed, interval held
    for benchmark, unit in plan["works"].items():
        whole = plan["variants"][WHOLE][benchmark]
        line = cost(found, benchmark, whole)
        if line is None:
            continue
        for count in sorted(count for name, count in found if name == benchmark and count != whole):
            rows = found[benchmark, count]
            truth = 1 + line.first + line.each * count
            failed, passed, open_ = (sum(r["verdict"] == v for r in rows) for v in ("FAIL", "PASS", "UNDECIDED"))
            holds = [row["low"] <= truth <= row["high"] for row in rows]
            judged += [(truth - 1, row["verdict"] == "FAIL", hold) for row, hold in zip(rows, holds, strict=True)]
            mean = math.expm1(float(np.mean([math.log(row["ratio"]) for row in rows])))
            lines.append(
                f"| {benchmark}: {count} × {unit} | {100 * (truth - 1):.2f}% | {rate(failed, len(rows))} | {passed} "
                f"| {open_} | {100 * mean:+.2f}% | {rate(sum(holds), len(holds))} |"
            )
    if not judged:
        return []
    whole_runs = sum(run["variant"] == WHOLE for run in runs)
    how = (
        f"Slower by: a line through the mean of these same runs and the mean of {whole_runs} that add half of the call "
        "or more; the first unit may cost more than others."
    )
    return [*lines, "", _altogether(judged), "", how, "", _bystanders(plan, runs)]


def _altogether(judged: Sequence[tuple[float, bool, bool]]) -> str:
    """Over all benchmarks: what is found of slowdowns from some size on, and how many intervals hold them."""
    found = []
    for least in (0.03, 0.05):
        failed = [fail for slower, fail, _ in judged if slower >= least]
        found.append(f"by {100 * least:.0f}% or more {rate(sum(failed), len(failed))}")
    holds = [hold for *_, hold in judged]
    return f"Failed of those slower {', '.join(found)}. Intervals that hold: {rate(sum(holds), len(holds))}."


Found = Mapping[tuple[str, int], list[Mapping[str, Any]]]


def added(plan: Mapping[str, Any], runs: Sequence[Run]) -> Found:
    """Rows of latency by benchmark and how many units of work were added to it."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        counts = plan["variants"][run["variant"]]
        for row in _slower(plan, run):
            found[row["benchmark"], counts[row["benchmark"]]].append(row)
    return found


class Cost(NamedTuple):
    """What work adds to a call, as shares of it: to do any, and each unit."""

    first: float
    each: float


def cost(found: Found, benchmark: str, whole: int) -> Cost | None:
    """The line through the mean of all runs that add some work and the mean of those that add `whole` units."""
    points = {n: [row["ratio"] - 1 for row in rows] for (name, n), rows in found.items() if name == benchmark}
    some = [(count, share) for count, shares in points.items() if count != whole for share in shares]
    if not some or whole not in points:
        return None
    count, share = np.mean(some, axis=0)
    each = (np.mean(points[whole]) - share) / (whole - count)
    return Cost(float(share - each * count), float(each))


def _bystanders(plan: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """How often a row failed that no work was added to, in suites where it was added to others."""
    changed = [run for run in runs if plan["variants"][run["variant"]]]
    touched = {work.benchmark for work in WORKS} | {name for work in WORKS for name in work.touches}
    rows = [row for run in changed for row in run["rows"] if row["benchmark"] not in touched]
    failed = sum(row["verdict"] == "FAIL" for row in rows)
    return f"Rows of the same suites that nothing was added to: {rate(failed, len(rows))} failed."


def costs(plan: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    """What a gate takes, and how well the intervals hold."""
    if not runs:
        return []
    wall = sorted(run["wall_s"] for run in runs)
    same = [run for run in runs if not plan["variants"][run["variant"]]]
    nulls = [row for run in same for row in run["rows"] if row["metric"] in _TIMES and row["low"]]
    covered = {
        metric: [row["low"] <= 1 <= row["high"] for row in nulls if row["metric"] == metric] for metric in _TIMES
    }
    lines = [f"A gate took {np.median(wall):.0f} s (median; at most {wall[-1]:.0f} s), building included."]
    for metric, hits in covered.items():
        found = rate(sum(hits), len(hits))
        if hits:
            lines.append(f"95% intervals of {metric} that hold 1, where the edit changes nothing: {found}.")
    return [*lines, *_clusters(same)]


def _clusters(runs: Sequence[Run]) -> list[str]:
    """Whether pairs from one zygote are alike: the intraclass correlation of their log-ratios (Fisher 1925), pooled."""
    between = within = 0.0
    groups = rows = values = squares = 0
    for run in runs:
        for logs in run.get("logs", {}).values():
            origin = [run["zygotes"][int(pair)] for pair in logs]
            parts = [np.array([x for x, o in zip(logs.values(), origin, strict=True) if o == z]) for z in set(origin)]
            parts = [part for part in parts if len(part) > 1]
            if len(parts) < 2:
                continue
            mean = np.concatenate(parts).mean()
            between += sum(len(part) * (part.mean() - mean) ** 2 for part in parts)
            within += sum(((part - part.mean()) ** 2).sum() for part in parts)
            count = sum(map(len, parts))
            groups, rows, values = groups + len(parts), rows + 1, values + count
            squares += sum(len(part) ** 2 for part in parts) / count
    if rows < ENOUGH_ROWS or not within:
        return []
    size = (values - squares) / (groups - rows)  # the mean one, weighted
    mean_between, mean_within = between / (groups - rows), within / (values - groups)
    share = (mean_between - mean_within) / (mean_between + (size - 1) * mean_within)
    return [f"Pairs forked from one interpreter are alike with a correlation of {share:+.2f} ({rows} rows of latency)."]
