"""What the text and Markdown tables say in words: a row's cells, a cohort's heading, a failure's reason, the legend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from pyprod.measure import statistics
from pyprod.measure.report import digits
from pyprod.measure.report.frame import ACCURACY_LOSS, BASELINE, COHORT

#: Marks behind an accuracy; "kept" has none.
VERDICT_MARKS = {"lost": "✗", "undecided": "?"}
#: Below this many calls the 99th percentile is little else than the slowest of them.
CALLS_FOR_P99 = 100

_LIMITS = "{}–{}".format(*statistics.AA_LIMITS)
LEGEND = (
    f"* Pareto front of latency x accuracy x size. Baseline: {BASELINE[1]}. Ranges are 95% intervals: speed-up from "
    "medians paired by round, accuracy from a paired bootstrap.",
    f"Accuracy: no mark: loses at most {ACCURACY_LOSS:.0%} of the baseline's, whole interval; ✗ loses more; ? can't "
    "say. ~ p99 of fewer than 100 calls. /s: samples, tok/s: tokens. MB = 10^6 bytes; RSS includes Python and torch.",
    f"A/A: the same candidate measured twice. Outside {_LIMITS} no number of that cohort can be trusted.",
)


def cohorts(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each cohort with its heading, in the frame's order."""
    for _, cohort in frame.groupby(COHORT, sort=False):
        yield heading(cohort), cohort


def heading(cohort: pd.DataFrame) -> str:
    """encoder · batch 8 · 2 threads · cpu · per sentence · A/A 1.004 trustworthy."""
    first = cohort.iloc[0]
    threads = digits.count(first["threads"], "thread")
    return f"{first['workload']} · batch {first['batch']} · {threads} · {first['device']} · " + " · ".join(
        [f"per {first['sample']}", *statistic(cohort), aa(first)]
    )


def statistic(cohort: pd.DataFrame) -> list[str]:
    """The cohort's accuracy metric in words; empty when nothing was scored."""
    names = {"mean": "share correct"}
    return [names.get(s, s) for s in cohort["statistic"] if s][:1]


def aa(row: pd.Series[Any]) -> str:
    """The cohort's A/A check: its ratio and verdict."""
    if row["cohort_trust"] == "unchecked":
        return "A/A unchecked"
    shout = str(row["cohort_trust"])
    return f"A/A {row['cohort_aa_ratio']:.3f} {shout.upper() if shout == 'untrustworthy' else shout}"


def measured(row: pd.Series[Any]) -> dict[str, str]:
    """Cells of a row that has numbers, by heading, in the order of the table."""
    cuda, kind = row["device"] == "cuda", row["statistic"]
    rate = rate_column(row["statistic"])
    few = "~" if row["calls"] < CALLS_FOR_P99 and row["calls"] > 0 else ""
    if row["baseline"]:
        speedup, difference = "baseline", "baseline"
    else:
        ends = digits.interval(row["speedup_low"], row["speedup_high"])
        speedup = f"{digits.speedup(row['speedup'])} {ends}".strip()
        ends = digits.difference_interval(row["accuracy_difference_low"], row["accuracy_difference_high"], kind)
        difference = f"{digits.difference(row['accuracy_difference'], kind)} {'' if ends == '0…0' else ends}".strip()
    return {
        "form": f"{'*' if row['pareto'] else ' '} {row['form']}",
        "p50 ms": digits.number(row["latency_p50_ms"]),
        "p99 ms": few + digits.number(row["latency_p99_ms"]),
        {"throughput_per_s": "/s", "tokens_per_s": "tok/s"}[rate]: digits.number(row[rate]),
        "speed-up": speedup,
        "accuracy": digits.accuracy(row["accuracy"], kind) + VERDICT_MARKS.get(row["accuracy_verdict"], ""),
        "difference": difference,
        "MB": digits.number(row["artifact_mb"]),
        "GPU MB" if cuda else "RSS MB": digits.number(row["gpu_memory_mb" if cuda else "peak_rss_mb"]),
    }


def rate_column(statistic: str) -> str:
    """The column that says how fast: tokens for a language model, which is scored by perplexity, else samples."""
    return "tokens_per_s" if statistic == "perplexity" else "throughput_per_s"


def reason(row: pd.Series[Any]) -> str:
    """Why a row has no number, in one line: "timeout at build: no answer within 300 s"."""
    stage = f" at {row['failure_stage']}" if row["failure_stage"] else ""
    kind = str(row["status"]).replace("_", " ")
    return f"{kind}{stage}: {' '.join(row['failure_message'].split())}"
