"""Which form to ship: of those that keep to all demands, with confidence, the best one. A pure function of a record.

A demand on a number that is known with an interval is *met* only if the whole interval keeps to it, and *missed* only
if none of it does; else it is *unclear*, and the form is not chosen. No form is called better than another within the
noise: those that can't be told from the best are named, and the smallest of them is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from pyprod.measure import statistics
from pyprod.measure.report.frame import COHORT, Record, summarize
from pyprod.types import Candidate, Measurement, PyprodError

Verdict = Literal["met", "missed", "unclear"]

#: Which end of a column a demand limits, and the column: the demand "p99_ms = 10" is "latency_p99_ms at most 10".
LIMITS: Mapping[str, tuple[str, str]] = {
    "p50_ms": ("latency_p50_ms", "most"),
    "p99_ms": ("latency_p99_ms", "most"),
    "throughput_per_s": ("throughput_per_s", "least"),
    "size_mb": ("artifact_mb", "most"),
    "memory_mb": ("peak_rss_mb", "most"),
    "speedup": ("speedup", "least"),
    "accuracy_drop": ("accuracy_difference", "least"),
}
#: What is preferred, as a column and its better end.
PREFERENCES: Mapping[str, tuple[str, str]] = {
    "latency": ("latency_p50_ms", "low"),
    "throughput": ("throughput_per_s", "high"),
    "size": ("artifact_mb", "low"),
    "memory": ("peak_rss_mb", "low"),
}


@dataclass(frozen=True)
class Judged:
    """One demand on one form.

    Attributes:
        demand, limit: its name and value, the latter in the unit of the former.
        value, low, high: what was measured, and its 95% interval.
        excess: by what factor (or, of accuracy, by what share of the baseline's) the value misses the limit; 0 or less
            where it does not.
    """

    demand: str
    limit: float
    value: float
    low: float
    high: float
    verdict: Verdict
    excess: float


@dataclass(frozen=True)
class Choice:
    """What was decided for one cohort.

    Attributes:
        cohort: "fashion_mnist/cpu/b1/t1".
        chosen: the form; None where none meets all demands.
        alike: forms that meet them too and can't be told from it by what is preferred.
        judged: by form that was measured, every demand.
        lost: by form that was not chosen, why, in a clause.
        nearest: where none is chosen, the forms that come nearest, and what they would need.
        trust: "trustworthy", or what the cohort's A/A pair says else (`pyprod.measure.report`).
    """

    cohort: str
    chosen: str | None
    alike: tuple[str, ...] = ()
    judged: Mapping[str, tuple[Judged, ...]] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    nearest: Mapping[str, str] = field(default_factory=dict)
    trust: str = "unchecked"


def choose(measurements: Iterable[Measurement], demands: Mapping[str, float], prefer: str) -> list[Choice]:
    """Choose in each cohort.

    Args:
        demands: by name (`LIMITS`), the limit. "accuracy_drop" is a share of the baseline's accuracy.
        prefer: a key of `PREFERENCES`.

    Raises:
        PyprodError: a demand or preference is unknown.
    """
    for name in demands:
        if name not in LIMITS:
            raise PyprodError(f"unknown demand {name!r}; there are: {', '.join(LIMITS)}")
    if prefer not in PREFERENCES:
        raise PyprodError(f"unknown preference {prefer!r}; there are: {', '.join(PREFERENCES)}")
    measurements = list(measurements)
    record, frame = Record(measurements), summarize(measurements)
    groups = frame.groupby(COHORT, sort=True)
    return [_choose(record, rows, "/".join(map(str, _name(key))), demands, prefer) for key, rows in groups]


def _name(key: Any) -> list[str]:
    workload, device, batch, threads = key
    return [workload, device, f"b{batch}", f"t{threads}"]


def _choose(record: Record, rows: pd.DataFrame, cohort: str, limits: Mapping[str, float], prefer: str) -> Choice:
    good, trust = rows[rows["status"] == "ok"], str(rows["cohort_trust"].iloc[0])
    lost = {
        row["candidate"]: f"{row['status']}: {row['failure_message']}"
        for _, row in rows.iterrows()
        if row["status"] != "ok"
    }
    base = next((row["accuracy"] for _, row in rows.iterrows() if row["baseline"]), math.nan)
    judged = {
        row["candidate"]: tuple(_judge(record, row, name, limit, base) for name, limit in limits.items())
        for _, row in good.iterrows()
    }
    for name, found in judged.items():
        if failed := [
            f"{j.demand} {j.verdict} ({j.value:.4g} [{j.low:.4g}, {j.high:.4g}])" for j in found if j.verdict != "met"
        ]:
            lost[name] = "; ".join(failed)
    left = good[~good["candidate"].isin(lost.keys())]
    if left.empty:
        return Choice(cohort, None, (), judged, lost, _nearest(judged), trust)
    column, end = PREFERENCES[prefer]
    left = left.sort_values([column, "artifact_mb", "candidate"], ascending=[end == "low", True, True])
    best = left.iloc[0]
    alike = [row for _, row in left.iterrows() if _indistinct(record, best, row, prefer)]
    chosen = min(alike, key=lambda row: (row["artifact_mb"], row["latency_p50_ms"]))["candidate"]
    others = tuple(row["candidate"] for row in alike if row["candidate"] != chosen)
    for name in left["candidate"]:
        if name != chosen:
            lost[name] = f"alike in {prefer}, not smaller" if name in others else f"worse in {prefer}"
    return Choice(cohort, chosen, others, judged, lost, trust=trust)


def _judge(record: Record, row: pd.Series[Any], name: str, limit: float, base: float) -> Judged:
    column, side = LIMITS[name]
    value = float(row[column])
    low, high = _interval(record, row, name, value)
    bound = limit
    if name == "accuracy_drop":
        bound = -limit * abs(base)
        if row["statistic"] == "perplexity":  # lower is better: a difference above is what is lost
            value, low, high = -value, -high, -low
        excess = (bound - value) / abs(base) if base else math.nan
    elif side == "most":
        excess = value / bound - 1 if bound else math.inf
    else:
        excess = bound / value - 1 if value else math.inf
    worst, best = (high, low) if side == "most" else (low, high)
    verdict: Verdict = "met" if _keeps(worst, bound, side) else "unclear"
    if not math.isnan(best) and not _keeps(best, bound, side):
        verdict = "missed"
    return Judged(name, limit, value, low, high, verdict, excess)


def _keeps(value: float, bound: float, side: str) -> bool:
    """False for NaN."""
    return value <= bound if side == "most" else value >= bound


def _interval(record: Record, row: pd.Series[Any], name: str, value: float) -> tuple[float, float]:
    """95%, of what is demanded; a size is exact. NaN where too little is known for one."""
    candidate = Candidate.from_id(row["candidate"])
    match name:
        case "speedup":
            return float(row["speedup_low"]), float(row["speedup_high"])
        case "accuracy_drop":
            return float(row["accuracy_difference_low"]), float(row["accuracy_difference_high"])
        case "p50_ms" | "p99_ms":
            samples = np.array(record.pooled(candidate, "latency")) * 1e-6
            return quantile_interval(samples, 0.5 if name == "p50_ms" else 0.99)
        case "throughput_per_s":
            mean = statistics.trimmed_mean(np.log(record.pooled(candidate, "throughput")), statistics.TRIM)
            tail = (1 - statistics.CONFIDENCE) / 2
            return math.exp(mean.bound(tail)), math.exp(mean.bound(1 - tail))
    return value, value


def quantile_interval(samples: np.ndarray[Any, Any], quantile: float) -> tuple[float, float]:
    """Ends of the 95% interval of a quantile, by order statistics: no distribution is assumed, independence is.

    NaN for an end that so few samples can't give: the upper one of the 99th percentile takes 368.
    """
    n, tail = len(samples), (1 - statistics.CONFIDENCE) / 2
    ordered = np.sort(samples)
    below, above = int(stats.binom.ppf(tail, n, quantile)), int(stats.binom.ppf(1 - tail, n, quantile)) + 1
    low = float(ordered[below - 1]) if below >= 1 else math.nan
    return low, float(ordered[above - 1]) if above <= n else math.nan


def _indistinct(record: Record, best: pd.Series[Any], other: pd.Series[Any], prefer: str) -> bool:
    """Whether measurements can't tell the other from the best; sizes are exact."""
    column, _ = PREFERENCES[prefer]
    if best["candidate"] == other["candidate"] or best[column] == other[column]:
        return True
    if prefer not in ("latency", "throughput"):
        return False
    first, second = (Candidate.from_id(row["candidate"]) for row in (best, other))
    baseline = record.baseline(first)
    if prefer == "latency":
        ratio = statistics.ratio(*(record.medians(form) for form in (second, first, baseline)))
    else:
        ratio = statistics.ratio(*(record.rates(form) for form in (first, second, baseline)))
    return not ratio.low > 1


def _nearest(judged: Mapping[str, tuple[Judged, ...]], most: int = 3) -> dict[str, str]:
    """The forms that miss by the least, all demands together, and what each would need."""

    def misses(found: tuple[Judged, ...]) -> list[Judged]:
        return [j for j in found if j.verdict != "met"]

    by_excess = sorted(judged, key=lambda name: (sum(max(0.0, j.excess) for j in misses(judged[name])), name))
    return {name: ", ".join(map(_need, misses(judged[name]))) for name in by_excess[:most]}


def _need(judged: Judged) -> str:
    end = "most" if LIMITS[judged.demand][1] == "most" else "least"
    if judged.demand == "accuracy_drop":
        return f"accuracy_drop = {max(0.0, judged.limit + judged.excess):.2%} instead of {judged.limit:.2%}"
    reached = judged.high if end == "most" else judged.low
    if math.isnan(reached):
        return f"{judged.demand}: more calls to be sure of {judged.value:.4g}"
    return f"{judged.demand} = {reached:.4g} instead of {judged.limit:.4g}"
