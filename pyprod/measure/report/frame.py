"""From raw measurements to one table: a row per candidate, every column derived. A pure function."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd

from pyprod.measure import statistics
from pyprod.measure.report.columns import COLUMNS, resolve
from pyprod.types import Candidate, Measurement, PyprodError

BASELINE = ("base", "eager.fp32")
COHORT = ["workload", "device", "batch", "threads"]
#: A form keeps its accuracy when it loses at most this share of the baseline's: MLPerf Inference asks for 99%.
ACCURACY_LOSS = 0.01

#: column: (metric, factor from the stored unit); the largest sample counts.
_SCALARS = {
    "artifact_mb": ("artifact_size", 1e-6),
    "peak_rss_mb": ("peak_rss", 1e-6),
    "pss_mb": ("pss", 1e-6),
    "gpu_memory_mb": ("gpu_memory", 1e-6),
    "build_s": ("build_time", 1.0),
    "first_call_s": ("first_call", 1.0),
    "relative_error": ("relative_error", 1.0),
}
_MISSING: dict[str, Any] = {"str": "", "bool": False, "float64": math.nan, "Int64": pd.NA}
_Key = tuple[Candidate, int, str]
_Form = tuple[str, str, str, str]


class Record:
    """Measurements, to be looked up by candidate, replica and metric."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.by_key: dict[_Key, list[Measurement]] = defaultdict(list)
        self.by_candidate: dict[Candidate, list[Measurement]] = defaultdict(list)
        self.accuracy: dict[_Form, Measurement] = {}
        self.sample: dict[str, str] = {}
        for m in measurements:
            self.by_key[m.candidate, m.replica, m.metric].append(m)
            self.by_candidate[m.candidate].append(m)
            if m.metric == "accuracy":
                self.accuracy.setdefault(m.candidate.form, m)
            if m.metric == "build_time" and "unit" in m.context:
                self.sample[m.candidate.workload] = m.context["unit"]
        self.candidates = sorted(self.by_candidate)

    def of(self, candidate: Candidate, metric: str, replica: int = 0) -> list[Measurement]:
        """What was measured, in the order of the record; empty when nothing was."""
        return self.by_key.get((candidate, replica, metric), [])

    def pooled(self, candidate: Candidate, metric: str) -> list[float]:
        """All samples of the metric, replica 0."""
        return [sample for m in self.of(candidate, metric) for sample in m.samples]

    def medians(self, candidate: Candidate, replica: int = 0) -> dict[int, float]:
        """Median latency, ns, by round.

        Raises:
            PyprodError: a round occurs twice: two runs were mixed, and their rounds must not be paired.
        """
        measured = self.of(candidate, "latency", replica)
        out = {m.round: float(np.median(m.samples)) for m in measured if m.samples}
        if len(out) < sum(bool(m.samples) for m in measured):
            raise PyprodError(f"{candidate.id} has a round twice: report one record at a time")
        return out

    def rates(self, candidate: Candidate) -> dict[int, float]:
        """Throughput, samples/s, by round."""
        return {m.round: m.samples[0] for m in self.of(candidate, "throughput")}

    def baseline(self, candidate: Candidate) -> Candidate:
        """The candidate that the given one is compared with; it need not have been measured."""
        recipe, backend = BASELINE
        workload, device, batch, threads = candidate.cohort
        return Candidate(workload, backend, recipe, device, batch, threads)


def summarize(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """One row per candidate with the columns of `columns.COLUMNS`, by cohort, fastest first.

    Raises:
        PyprodError: measurements of several runs are mixed, or accuracies were not scored on the same examples.
    """
    record = Record(measurements)
    accuracy = {form: _accuracy(record, form) for form in record.accuracy}
    rows = [_row(record, c) | accuracy.get(c.form, {}) | _status(record, c) for c in record.candidates]
    frame = pd.DataFrame(
        {
            name: pd.Series([row.get(name, _MISSING[column.dtype]) for row in rows], dtype=column.dtype)
            for name, column in COLUMNS.items()
        }
    )
    for _, cohort in frame.groupby(COHORT):
        frame.loc[cohort.index, "pareto"] = _front(cohort)
        worst = max(cohort["aa_ratio"].dropna(), key=lambda ratio: abs(math.log(ratio)), default=math.nan)
        frame.loc[cohort.index, "cohort_aa_ratio"] = worst
        frame.loc[cohort.index, "cohort_trust"] = _trust(worst)
    return order(frame, "latency_p50_ms")


def order(frame: pd.DataFrame, sort: str) -> pd.DataFrame:
    """Rows by cohort and within it by the column `sort` (full or short name), best first, rows without it last.

    Equals are ordered by latency.

    Raises:
        PyprodError: there is no such column.
    """
    column = resolve(sort)
    keys = list(dict.fromkeys([*COHORT, column, "latency_p50_ms", "candidate"]))
    ascending = [key in COHORT or COLUMNS[key].best == "low" for key in keys]
    return frame.sort_values(keys, ascending=ascending, na_position="last", ignore_index=True)


def _row(record: Record, candidate: Candidate) -> dict[str, Any]:
    """Identity, latency, throughput, speed-up and the scalar metrics of one candidate."""
    latencies = record.pooled(candidate, "latency")
    p50, p90, p99 = (p * 1e-6 for p in statistics.percentiles(latencies))
    medians, baseline = record.medians(candidate), record.baseline(candidate)
    speedup = statistics.ratio(record.medians(baseline), medians)
    build = next((dict(m.context) for m in record.of(candidate, "build_time")), {})
    throughput = _median(record.pooled(candidate, "throughput"))
    row: dict[str, Any] = {
        "candidate": candidate.id,
        **{name: getattr(candidate, name) for name in ("workload", "recipe", "backend", "device", "batch", "threads")},
        "form": candidate.backend if candidate.recipe == "base" else f"{candidate.recipe}/{candidate.backend}",
        "sample": record.sample.get(candidate.workload, "sample"),
        "numerics": build.get("numerics", ""),
        "notes": "; ".join([*build.get("notes", ()), *_twin_failure(record, candidate)]),
        "baseline": candidate == baseline,
        "latency_p50_ms": p50,
        "latency_p90_ms": p90,
        "latency_p99_ms": p99,
        "calls": len(latencies),
        "rounds": len(medians),
        "throughput_per_s": throughput,
        "tokens_per_s": throughput * (build.get("tokens_per_sample") or math.nan),
        "speedup": speedup.value,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "speedup_rounds": speedup.n,
        "aa_ratio": statistics.ratio(record.medians(candidate, replica=1), medians).value,
    }
    for column, (metric, factor) in _SCALARS.items():
        samples = record.pooled(candidate, metric)
        row[column] = factor * float(np.max(samples)) if samples else math.nan
    for m in record.of(candidate, "relative_error"):
        row["relative_error_tolerance"] = m.context.get("tolerance", math.nan)
    return row


def _median(samples: list[float]) -> float:
    return float(np.median(samples)) if samples else math.nan


def _twin_failure(record: Record, candidate: Candidate) -> list[str]:
    failures = [m.failure for m in record.of(candidate, "failure", replica=1) if m.failure]
    return [f"the A/A twin failed at {f.stage}: {f.message}" for f in failures[-1:]]


def _status(record: Record, candidate: Candidate) -> dict[str, str]:
    """The last failure; else whether a sample is not a finite number; else whether it was timed at all."""
    failures = [m.failure for m in record.of(candidate, "failure") if m.failure]
    if failures:
        last = failures[-1]
        return {
            "status": last.kind,
            "failure_stage": last.stage,
            "failure_message": last.message,
            "failure_detail": last.detail,
        }
    accuracy = record.accuracy.get(candidate.form)  # it may have been taken at another batch
    for m in [*record.by_candidate[candidate], *([accuracy] if accuracy else [])]:
        bad = int((~np.isfinite(m.samples)).sum())
        if bad:
            message = f"{m.metric}: {bad} of {len(m.samples)} samples not finite"
            return {"status": "invalid", "failure_message": message}
    if not record.of(candidate, "latency"):
        return {"status": "unfinished", "failure_message": "not timed: the run ended before"}
    return {"status": "ok"}


def _accuracy(record: Record, form: _Form) -> dict[str, Any]:
    """The accuracy columns of one form, compared with the baseline's form on the same device."""
    workload, _, _, device = form
    mine = statistics.evaluation(record.accuracy[form])
    row: dict[str, Any] = {
        "accuracy": statistics.score(mine),
        "statistic": mine.statistic,
        "accuracy_n": len(mine.values),
    }
    reference = record.accuracy.get((workload, *BASELINE, device))
    if reference is None:
        return row
    base = statistics.evaluation(reference)
    difference = statistics.accuracy_difference(mine, base)
    row |= {
        "accuracy_difference": difference.value,
        "accuracy_difference_low": difference.low,
        "accuracy_difference_high": difference.high,
        "accuracy_verdict": verdict(difference, ACCURACY_LOSS * abs(statistics.score(base)), mine.higher_is_better),
    }
    pairs = statistics.discordant(mine, base)
    if pairs is not None:
        row |= {"discordant_lost": pairs.lost, "discordant_won": pairs.won, "mcnemar_p": pairs.p}
    return row


def verdict(
    difference: statistics.Estimate, limit: float, higher_is_better: bool
) -> Literal["kept", "lost", "undecided"]:
    """Whether the accuracy is kept: the worst end of the interval loses at most `limit`.

    "lost" when even the best end loses more; anything else, NaN included, is undecided.
    """
    ends = (difference.low, difference.high) if higher_is_better else (-difference.high, -difference.low)
    if ends[0] >= -limit:
        return "kept"
    return "lost" if ends[1] < -limit else "undecided"


def _front(cohort: pd.DataFrame) -> list[bool]:
    """The Pareto front of latency x accuracy x size. A difference whose interval holds 0 counts as no difference."""
    unresolved = (cohort["accuracy_difference_low"] <= 0) & (cohort["accuracy_difference_high"] >= 0)
    accuracy = cohort["accuracy"].where(~unresolved, cohort["accuracy"] - cohort["accuracy_difference"])
    cost = accuracy.where(cohort["statistic"] == "perplexity", -accuracy).round(12)  # undo the subtraction's rounding
    costs = np.column_stack([cohort["latency_p50_ms"], cost, cohort["artifact_mb"]])
    costs[(cohort["status"] != "ok").to_numpy()] = np.nan
    return [bool(on) for on in statistics.pareto_front(costs)]


def _trust(aa_ratio: float) -> str:
    if math.isnan(aa_ratio):
        return "unchecked"
    return "trustworthy" if statistics.trustworthy(aa_ratio) else "untrustworthy"
