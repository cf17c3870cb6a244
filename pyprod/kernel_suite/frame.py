"""From a record of the suite to one table: a row per candidate, every column derived. A pure function."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyprod import ceilings
from pyprod.kernel_suite import problems
from pyprod.measure import statistics
from pyprod.measure.statistics import Estimate
from pyprod.types import Candidate, Measurement

#: column: what it is.
COLUMNS = {
    "candidate": "the candidate's id",
    "kind": "kind of problem",
    "problem": "kind and sizes",
    "family": "models that have such layers",
    "layer": "N x K, or K where there are no weights",
    "rows": "number of rows, M",
    "threads": "CPU threads",
    "peer": "family.variant",
    "ours": "whether it is pyprod's own",
    "status": "ok, unfinished, or a failure's kind",
    "reason": "why it has no number",
    "time_us": "median of the rounds' median durations of a call, microseconds",
    "rounds": "interleaved rounds",
    "gops": "multiplications and additions of the product, 10^9 per second",
    "roofline_us": "the least time the measured ceilings allow an int8 implementation, microseconds",
    "roofline_share": "roofline_us / time_us",
    "relative_error": "error of the checked output, in the measure of the kind",
    "best_peer": "the fastest of the others at this problem, rows and threads: its name",
    "ratio": "time of the best peer / this time, by round: above 1 is faster than every peer",
    "ratio_low": "lower end of its 95% interval",
    "ratio_high": "upper end",
    "aa_ratio": "time of the twin / this time; only pyprod's own have a twin",
}
#: By (N, K): what kind of model has such layers.
FAMILIES = {
    "BERT-base": {(768, 768), (3072, 768), (768, 3072)},
    "MiniLM": {(384, 384), (1536, 384), (384, 1536)},
    "Llama-8B": {(4096, 4096), (14336, 4096), (4096, 14336)},
    "ResNet im2col": {(64, 576), (128, 1152), (512, 4608)},
    "ugly": {(577, 331), (1000, 512), (31, 4097)},
}
PROBLEM = ["kind", "problem", "rows", "threads"]
_Rounds = Mapping[int, float]


def summarize(measurements: Iterable[Measurement], environment: Mapping[str, Any]) -> pd.DataFrame:
    """One row per candidate with `COLUMNS`, by problem, fastest first.

    Args:
        environment: of the record; its "ceilings" give the rooflines, which are NaN without them.
    """
    record = _Record(measurements)
    rows: list[dict[str, Any]] = []
    cohorts: dict[tuple[str, str, int, int], list[Candidate]] = defaultdict(list)
    for candidate in record.candidates:
        cohorts[candidate.cohort].append(candidate)
    for candidates in cohorts.values():
        best = virtual_best({c: record.rounds[c, 0] for c in candidates if not _ours(c) and record.timed(c)})
        for candidate in candidates:
            rows.append(_row(record, candidate, environment) | _against(record, candidate, best))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.sort_values([*PROBLEM, "time_us", "candidate"], na_position="last", ignore_index=True)


def virtual_best(rounds: Mapping[Candidate, _Rounds]) -> Candidate | None:
    """The candidate with the smallest median over its rounds; None of none.

    Chosen after the fact, the best of many noisy peers looks a little better than it is: an error in the peers' favor.
    """
    return min(rounds, key=lambda c: float(np.median(list(rounds[c].values()))), default=None)


class _Record:
    """Measurements, to be looked up by candidate."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.rounds: dict[tuple[Candidate, int], dict[int, float]] = defaultdict(dict)
        self.failures: dict[Candidate, Measurement] = {}
        self.errors: dict[Candidate, float] = {}
        seen: set[Candidate] = set()
        for m in measurements:
            seen.add(m.candidate)
            if m.metric == "latency":
                self.rounds[m.candidate, m.replica][m.round] = float(np.median(m.samples))
            elif m.failure and not m.replica:
                self.failures[m.candidate] = m
            elif m.metric == "relative_error" and not m.replica:
                self.errors[m.candidate] = m.samples[0]
        self.candidates = sorted(seen)

    def timed(self, candidate: Candidate) -> bool:
        return candidate not in self.failures and bool(self.rounds[candidate, 0])


def _ours(candidate: Candidate) -> bool:
    kind, _ = problems.parse(candidate.workload)
    return candidate.backend in problems.module(kind).OURS


def _row(record: _Record, candidate: Candidate, environment: Mapping[str, Any]) -> dict[str, Any]:
    kind, sizes = problems.parse(candidate.workload)
    cost = problems.module(kind).cost(candidate.batch, **sizes)
    layer = (sizes.get("n", 0), sizes["k"])
    row: dict[str, Any] = {
        "candidate": candidate.id,
        "kind": kind,
        "problem": candidate.workload,
        "family": next((name for name, layers in FAMILIES.items() if layer in layers), ""),
        "layer": f"{layer[0]}x{layer[1]}" if layer[0] else f"{layer[1]}",
        "rows": candidate.batch,
        "threads": candidate.threads,
        "peer": candidate.backend,
        "ours": _ours(candidate),
        "status": "ok",
        "reason": "",
        "relative_error": record.errors.get(candidate, math.nan),
    }
    if found := record.failures.get(candidate):
        assert found.failure
        return row | {"status": found.failure.kind, "reason": found.failure.message}
    rounds = record.rounds[candidate, 0]
    if not rounds:
        return row | {"status": "unfinished", "reason": "not timed: the run ended before"}
    seconds = float(np.median(list(rounds.values()))) * 1e-9
    least = _roofline(environment, candidate)
    return row | {
        "time_us": seconds * 1e6,
        "rounds": len(rounds),
        "gops": cost.ops / seconds * 1e-9 if cost.ops else math.nan,
        "roofline_us": least * 1e6,
        "roofline_share": least / seconds,
    }


def _roofline(environment: Mapping[str, Any], candidate: Candidate) -> float:
    """Seconds; NaN where the record has no ceilings for so many threads."""
    kind, sizes = problems.parse(candidate.workload)
    module = problems.module(kind)
    cost = module.cost(candidate.batch, **sizes)
    held = module.working_set(candidate.batch, **sizes) if hasattr(module, "working_set") else cost.bytes
    try:
        return ceilings.roofline_seconds(
            environment["ceilings"], cost.ops, cost.bytes, held, threads=candidate.threads, pattern=module.PATTERN
        )
    except LookupError:
        return math.nan


def _against(record: _Record, candidate: Candidate, best: Candidate | None) -> dict[str, Any]:
    if best is None or not record.timed(candidate):
        return {"best_peer": ""}
    mine = record.rounds[candidate, 0]
    ratio = statistics.ratio(record.rounds[best, 0], mine)
    twin = statistics.ratio(record.rounds[candidate, 1], mine)
    return {
        "best_peer": best.backend,
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "aa_ratio": twin.value,
    }


def mean_ratio(rows: pd.DataFrame) -> Estimate:
    """Geometric mean of the ratios of `rows` that have one."""
    return statistics.geometric_mean(_estimates(rows.dropna(subset=["ratio"])))


def _estimates(rows: pd.DataFrame) -> Sequence[Estimate]:
    columns = zip(rows["ratio"], rows["ratio_low"], rows["ratio_high"], rows["rounds"], strict=True)
    return [Estimate(float(v), float(low), float(high), int(n)) for v, low, high, n in columns]


def steps(frame: pd.DataFrame) -> pd.DataFrame:
    """What a row costs pyprod's linear with more rows: its time divided by that with the next smaller number of rows.

    Returns:
        "problem", "threads", "before", "after" (numbers of rows) and "step": above 1, where more rows cost more each.
    """
    ours = frame[frame["ours"] & frame["kind"].eq("linear") & frame["status"].eq("ok")]
    found = []
    for (problem, threads), part in ours.sort_values("rows").groupby(["problem", "threads"]):
        rows, each = part["rows"].tolist(), (part["time_us"] / part["rows"]).tolist()
        for i in range(1, len(rows)):
            found.append((problem, threads, rows[i - 1], rows[i], each[i] / each[i - 1]))
    return pd.DataFrame(found, columns=["problem", "threads", "before", "after", "step"]).astype({"step": float})
