"""The columns of the derived table: what each is called, means, and which end of it is the better one."""

from __future__ import annotations

import difflib
from typing import Literal, NamedTuple

from pyprod.types import PyprodError


class Column(NamedTuple):
    """One column of `summarize`'s frame.

    Attributes:
        dtype: pandas dtype. A float that was not measured is NaN, an integer <NA>, a string empty.
        best: which end sorts first.
        meaning: one line for documentation, tooltips and the JSON Schema's readers.
    """

    dtype: Literal["str", "float64", "Int64", "bool"]
    best: Literal["low", "high"]
    meaning: str


COLUMNS: dict[str, Column] = {
    "candidate": Column("str", "low", "the candidate's id"),
    "workload": Column("str", "low", "model and data"),
    "recipe": Column("str", "low", "optimization steps before lowering; base: the model as trained"),
    "backend": Column("str", "low", "family.variant"),
    "form": Column("str", "low", "the backend; recipe/backend unless the recipe is base"),
    "device": Column("str", "low", "cpu or cuda"),
    "batch": Column("Int64", "low", "samples per call"),
    "threads": Column("Int64", "low", "intra-op CPU threads"),
    "sample": Column("str", "low", "what one sample is: sentence, image, row ..."),
    "numerics": Column("str", "low", "what the heavy operators compute in"),
    "baseline": Column("bool", "high", "whether the others of the cohort are compared with this row"),
    "status": Column("str", "low", "ok, invalid (a sample not finite), unfinished (never timed), or a failure's kind"),
    "failure_stage": Column("str", "low", "where it failed: build, check, score, warmup, time"),
    "failure_message": Column("str", "low", "why, in one line"),
    "failure_detail": Column("str", "low", "traceback or the end of the worker's output"),
    "latency_p50_ms": Column("float64", "low", "median duration of one call, samples of all rounds pooled"),
    "latency_p90_ms": Column("float64", "low", "90th percentile of the same"),
    "latency_p99_ms": Column("float64", "low", "99th percentile of the same; near the slowest call below 100 calls"),
    "calls": Column("Int64", "high", "timed calls"),
    "rounds": Column("Int64", "high", "interleaved rounds they were taken in"),
    "throughput_per_s": Column("float64", "high", "samples per second, median over rounds, calls back to back"),
    "tokens_per_s": Column("float64", "high", "the same in tokens, for sequence models"),
    "speedup": Column("float64", "high", "baseline latency / this latency: trimmed mean of per-round log ratios"),
    "speedup_low": Column("float64", "high", "lower end of its 95% interval; none below 3 common rounds"),
    "speedup_high": Column("float64", "high", "upper end"),
    "speedup_rounds": Column("Int64", "high", "rounds that this form and the baseline have in common"),
    "accuracy": Column("float64", "high", "the workload's metric on real data; holds for every batch and thread count"),
    "statistic": Column("str", "low", "which metric: mean (share correct), spearman, pearson, roc_auc, perplexity"),
    "accuracy_n": Column("Int64", "high", "examples (or pairs of examples) it was scored on"),
    "accuracy_difference": Column("float64", "high", "accuracy - baseline's accuracy, on the same examples"),
    "accuracy_difference_low": Column("float64", "high", "lower end of its 95% interval, paired bootstrap"),
    "accuracy_difference_high": Column("float64", "high", "upper end"),
    "accuracy_verdict": Column("str", "low", "kept, lost or undecided: does the whole interval stay within the limit?"),
    "discordant_lost": Column("Int64", "low", "examples only the baseline gets right (0/1 scores)"),
    "discordant_won": Column("Int64", "high", "examples only this form gets right (0/1 scores)"),
    "mcnemar_p": Column("float64", "high", "exact p of as many lost as won"),
    "relative_error": Column("float64", "low", "relative L2 error of the output against float32 eager"),
    "relative_error_tolerance": Column("float64", "low", "what the check allowed"),
    "artifact_mb": Column("float64", "low", "file(s) that production would ship, MB (10^6 bytes)"),
    "peak_rss_mb": Column("float64", "low", "peak resident memory while timed, MB; includes Python and torch"),
    "pss_mb": Column("float64", "low", "proportional memory, shared pages divided among their users, MB"),
    "gpu_memory_mb": Column("float64", "low", "device memory, MB"),
    "build_s": Column("float64", "low", "time to lower the model, s"),
    "first_call_s": Column("float64", "low", "the first call after the build, s"),
    "pareto": Column("bool", "high", "no other form of the cohort beats it in latency, accuracy and size at once"),
    "notes": Column("str", "low", "what the backend says a reader must know"),
    "aa_ratio": Column("float64", "low", "latency of the A/A twin (same candidate, own process) / this latency"),
    "cohort_aa_ratio": Column("float64", "low", "the cohort's A/A ratio farthest from 1"),
    "cohort_trust": Column("str", "low", "trustworthy, untrustworthy (A/A ratio outside 0.97-1.03) or unchecked"),
}

#: What people ask for, in their words.
SHORT_NAMES = {
    "latency": "latency_p50_ms",
    "throughput": "throughput_per_s",
    "size": "artifact_mb",
    "memory": "peak_rss_mb",
    "build": "build_s",
    "first_call": "first_call_s",
}


def resolve(name: str) -> str:
    """A column's full name from its full or short name.

    Raises:
        PyprodError: there is no such column; the message suggests near ones.
    """
    if name in COLUMNS:
        return name
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    known = [*SHORT_NAMES, *COLUMNS]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(known)}"
    raise PyprodError(f"unknown column {name!r} to sort by; {hint}")
