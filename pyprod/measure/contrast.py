"""Two forms side by side, aspect by aspect: which is better, by how much, and how sure that is. Pure functions."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pyprod.measure import statistics
from pyprod.measure.report.frame import Record, summarize
from pyprod.measure.statistics import Discordant, Estimate
from pyprod.types import Candidate, Measurement, PyprodError

Better = Literal["first", "second", "alike", "unknown"]

#: What is compared, beside latency and accuracy: column of the frame, its unit, its better end, and whether another
#: measurement would give the same number.
_SCALARS = (
    ("p99 latency", "latency_p99_ms", "ms", "low", False),
    ("size", "artifact_mb", "MB", "low", True),
    ("memory", "peak_rss_mb", "MB", "low", False),
    ("build", "build_s", "s", "low", False),
    ("first call", "first_call_s", "s", "low", False),
)


@dataclass(frozen=True)
class Aspect:
    """One thing that two forms differ in.

    Attributes:
        name, unit: "latency", "ms".
        first, second: the values.
        effect: first over second; of accuracy, first minus second. Without an interval where there is none.
        better: "unknown" where nothing is known of how the number would vary.
    """

    name: str
    unit: str
    first: float
    second: float
    effect: Estimate
    better: Better


@dataclass(frozen=True)
class Contrast:
    """Two forms of one cohort.

    Attributes:
        first, second: candidates' ids.
        cohort: "encoder/cpu/b1/t1".
        aspects: latency first.
        pairs: of the first's right and wrong answers against the second's; None where answers are no such thing.
        rows: their numbers: right in the first only, and in the second only.
        notes: what each alone says of itself.
        trust: of the cohort, by its A/A pair.
    """

    first: str
    second: str
    cohort: str
    aspects: tuple[Aspect, ...]
    pairs: Discordant | None
    rows: tuple[tuple[int, ...], tuple[int, ...]]
    notes: tuple[tuple[str, ...], tuple[str, ...]]
    trust: str


def contrast(measurements: Iterable[Measurement], first: str, second: str) -> list[Contrast]:
    """Compare in every cohort that has both.

    Args:
        first, second: a candidate's id, "recipe/backend", or a backend of the recipe "base".

    Raises:
        PyprodError: a name is not in the record, no cohort has both, or one has no numbers.
    """
    measurements = list(measurements)
    record, frame = Record(measurements), summarize(measurements)
    rows = {row["candidate"]: row for _, row in frame.iterrows()}
    named = [_find(record, name) for name in (first, second)]
    pairs = [(a, b) for a in named[0] for b in named[1] if a.cohort == b.cohort and a != b]
    if not pairs:
        raise PyprodError(f"no cohort of the record has both {first} and {second}")
    timed = [(a, b) for a, b in pairs if rows[a.id]["status"] == rows[b.id]["status"] == "ok"]
    if not timed:
        why = next(rows[c.id] for pair in pairs for c in pair if rows[c.id]["status"] != "ok")
        raise PyprodError(f"{why['candidate']} has no numbers: {why['failure_message']}")
    return [_contrast(record, rows[a.id], rows[b.id], a, b) for a, b in timed]


def _find(record: Record, name: str) -> list[Candidate]:
    form = name if "/" in name else f"base/{name}"
    found = [c for c in record.candidates if name == c.id or form == f"{c.recipe}/{c.backend}"]
    if not found:
        known = sorted({f"{c.recipe}/{c.backend}" for c in record.candidates})
        near = difflib.get_close_matches(form, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(known)}"
        raise PyprodError(f"unknown form {form!r}; {hint}")
    return found


def _contrast(record: Record, a: Any, b: Any, first: Candidate, second: Candidate) -> Contrast:
    aspects = [_latency(record, a, b, first, second), _throughput(record, a, b, first, second)]
    aspects += [_scalar(a, b, *about) for about in _SCALARS if _known(a, b, about[1])]
    pairs: Discordant | None = None
    rows: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    if first.form in record.accuracy and second.form in record.accuracy:
        accuracy, pairs, rows = _accuracy(record, first, second)
        aspects.insert(2, accuracy)
    workload, device, batch, threads = first.cohort
    return Contrast(
        first.id,
        second.id,
        f"{workload}/{device}/b{batch}/t{threads}",
        tuple(aspects),
        pairs,
        rows,
        (_notes(a, b), _notes(b, a)),
        str(a["cohort_trust"]),
    )


def _latency(record: Record, a: Any, b: Any, first: Candidate, second: Candidate) -> Aspect:
    effect = statistics.ratio(*(record.medians(form) for form in (first, second, record.baseline(first))))
    return Aspect("latency", "ms", a["latency_p50_ms"], b["latency_p50_ms"], effect, _better(effect, 1.0, "low"))


def _throughput(record: Record, a: Any, b: Any, first: Candidate, second: Candidate) -> Aspect:
    effect = statistics.ratio(*(record.rates(form) for form in (first, second, record.baseline(first))))
    better = _better(effect, 1.0, "high")
    return Aspect("throughput", "/s", a["throughput_per_s"], b["throughput_per_s"], effect, better)


def _scalar(a: Any, b: Any, name: str, column: str, unit: str, end: str, exact: bool) -> Aspect:
    first, second = float(a[column]), float(b[column])
    ratio = first / second if second else math.nan
    known = ratio if exact else math.nan
    effect = Estimate(ratio, known, known, 1)
    return Aspect(name, unit, first, second, effect, _better(effect, 1.0, end))


def _accuracy(
    record: Record, first: Candidate, second: Candidate
) -> tuple[Aspect, Discordant | None, tuple[tuple[int, ...], tuple[int, ...]]]:
    one, other = (statistics.evaluation(record.accuracy[c.form]) for c in (first, second))
    effect = statistics.accuracy_difference(one, other)
    end = "high" if one.higher_is_better else "low"
    values = statistics.score(one), statistics.score(other)
    aspect = Aspect("accuracy", one.statistic, *values, effect, _better(effect, 0.0, end))
    pairs = statistics.discordant(one, other)
    if pairs is None:
        return aspect, None, ((), ())
    mine, theirs = np.asarray(one.values), np.asarray(other.values)
    won, lost = (tuple(np.flatnonzero(x > y).tolist()) for x, y in ((mine, theirs), (theirs, mine)))
    return aspect, pairs, (won, lost)


def _better(effect: Estimate, even: float, end: str) -> Better:
    """By the interval: none of it on the other side of `even`."""
    if math.isnan(effect.low) or math.isnan(effect.high):
        return "unknown"
    if effect.low <= even <= effect.high:
        return "alike"
    return "first" if (effect.high < even) == (end == "low") else "second"


def _known(a: Any, b: Any, column: str) -> bool:
    return not (math.isnan(a[column]) or math.isnan(b[column]))


def _notes(row: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    theirs = str(other["notes"]).split("; ")
    return tuple(note for note in str(row["notes"]).split("; ") if note and note not in theirs)


def in_words(found: Contrast) -> str:
    """One sentence: what the first gains and loses against the second, as far as it is known."""
    gains, losses = _clauses(found.aspects, "first"), _clauses(found.aspects, "second")
    even = [aspect.name for aspect in found.aspects if aspect.better == "alike"]
    parts = [", ".join(gains)] if gains else []
    parts += ["but " * bool(gains) + ", ".join(losses)] if losses else []
    parts += [f"alike in {' and '.join(even)}"] if even else []
    return "; ".join(parts) or "nothing tells them apart"


_WORDS = {
    "latency": ("faster", "slower"),
    "size": ("smaller", "larger"),
    "accuracy": ("more accurate", "less accurate"),
}


def _clauses(aspects: Sequence[Aspect], who: Better) -> list[str]:
    found = []
    for aspect in aspects:
        if aspect.better != who or aspect.name not in _WORDS:
            continue
        word, effect = _WORDS[aspect.name][who == "second"], aspect.effect.value
        if aspect.name == "accuracy":
            found.append(f"{word} by {abs(effect):.4f}")
        else:
            found.append(f"{max(effect, 1 / effect):.2f}x {word}")
    return found
