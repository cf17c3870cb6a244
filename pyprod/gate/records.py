"""Two stored records of ``pyprod bench`` instead of two revisions: measured some time ago, on the same machine.

Weaker than pairs of processes, and it says so: each candidate had one process in each record, on days that may differ.
How much slower the cohort's baseline was, by its medians, is taken out of the others' latencies; what a process's own
addresses and pages did is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyprod.gate.book import ACCURACY, LATENCY, PEAK_MEMORY, SIZE
from pyprod.gate.evidence import FORMAT, Writer, summary
from pyprod.gate.settings import Settings
from pyprod.gate.sides import BASE, HEAD, SIDES
from pyprod.measure import statistics, store
from pyprod.types import Candidate, Failure, Measurement, PyprodError

#: Of latency: two processes of one model have been up to 6% apart (docs/methodology.md), and days differ too.
TOLERANCE = 0.1
NOTE = "two stored records: one process each, so what differs from process to process counts as the change"

Event = dict[str, Any]


@dataclass
class _Entry:
    """What one record holds of one candidate."""

    rounds: list[float] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    higher_is_better: bool = True
    failure: Failure | None = None


def is_record(name: str | None) -> bool:
    """Whether this names a folder that holds a record."""
    return name is not None and (Path(name) / store.PLAN).is_file()


def compare(base: Path, head: Path, settings: Settings, writer: Writer, about: Mapping[str, Any]) -> None:
    """Write the events of a comparison of two records, as a gate writes those of two revisions.

    Raises:
        PyprodError: a record can't be read, or they are of different machines.
    """
    records = {BASE: store.read(base), HEAD: store.read(head)}
    _refuse_other_machine(records)
    plan = asdict(settings)
    rule = plan.pop("rule")
    labels = {side: {"label": f"{record.path.name}", "commit": _commit(record)} for side, record in records.items()}
    writer.record(
        "plan", format=FORMAT, rule=rule, settings=plan, tolerances=settings.tolerances(), note=NOTE, **labels, **about
    )
    for event in _events(records):
        writer.record(event.pop("kind"), **event)
    writer.record("look", fraction=1.0)
    writer.record("verdict", **summary(writer.book))


def _events(records: Mapping[str, store.Record]) -> Iterator[Event]:
    entries = {side: _entries(record.measurements) for side, record in records.items()}
    baseline = records[BASE].plan.get("baseline", "")
    both = {c.id: records[HEAD].path.name for c in sorted(entries[HEAD])}
    vanished = [c.id for c in sorted(entries[BASE].keys() - entries[HEAD].keys())]
    yield {"kind": "inventory", "benchmarks": both, "vanished": vanished, "metrics": [LATENCY]}
    for candidate, found in sorted(entries[HEAD].items()):
        before = entries[BASE].get(candidate)
        if before is None:
            before = _Entry(failure=Failure("skipped", "time", "the older record has not measured it"))
        yield from _failures(candidate, {BASE: before, HEAD: found})
        if not (before.failure or found.failure):
            yield from _latencies(candidate, before, found, _drift(entries, candidate, baseline))
            yield from _values(candidate, before, found)


def _failures(candidate: Candidate, entries: Mapping[str, _Entry]) -> Iterator[Event]:
    for side in SIDES:
        if failure := entries[side].failure:
            yield {"kind": "failure", "benchmark": candidate.id, "pair": 0, "side": side, "failure": asdict(failure)}


def _latencies(candidate: Candidate, before: _Entry, found: _Entry, drift: float) -> Iterator[Event]:
    for number, (base, head) in enumerate(zip(before.rounds, found.rounds, strict=False)):
        sides = {BASE: base, HEAD: head / drift}
        yield {"kind": "value", "benchmark": candidate.id, "metric": LATENCY, "pair": number, **sides}


def _values(candidate: Candidate, before: _Entry, found: _Entry) -> Iterator[Event]:
    for metric in sorted(before.values.keys() & found.values.keys()):
        sides = {BASE: before.values[metric], HEAD: found.values[metric]}
        if not _positive(sides[BASE]):
            continue  # no ratio to a score that is no number, or below 0
        if not _positive(sides[HEAD]):
            message = f"{metric} was {sides[BASE]:g} and is {sides[HEAD]:g}"
            yield from _failures(
                candidate, {BASE: _Entry(), HEAD: _Entry(failure=Failure("mismatch", "score", message))}
            )
            continue
        better = metric == ACCURACY and found.higher_is_better
        yield {"kind": "exact", "benchmark": candidate.id, "metric": metric, "higher_is_better": better, **sides}


def _positive(value: float) -> bool:
    return bool(np.isfinite(value) and value > 0)


def _drift(entries: Mapping[str, Mapping[Candidate, _Entry]], candidate: Candidate, baseline: str) -> float:
    """How much slower the cohort's baseline was in HEAD's record; 1 for itself, and where one of them lacks it."""
    if candidate.backend == baseline:
        return 1.0
    for other in entries[HEAD]:
        if other.cohort == candidate.cohort and other.backend == baseline and other.recipe == "base":
            sides = [entries[side].get(other, _Entry()).rounds for side in SIDES]
            if all(sides):
                return float(np.median(sides[1]) / np.median(sides[0]))
    return 1.0


def _entries(measurements: tuple[Measurement, ...]) -> dict[Candidate, _Entry]:
    """By candidate, of the first replica; the last value of each metric counts, as in reports."""
    found: dict[Candidate, _Entry] = defaultdict(_Entry)
    names = {"peak_rss": PEAK_MEMORY, "artifact_size": SIZE}
    for m in measurements:
        if m.replica:
            continue
        entry = found[m.candidate]
        if m.failure:
            entry.failure = m.failure
        elif m.metric == "latency":
            entry.rounds.append(float(np.median(m.samples)))
        elif m.metric == "accuracy":
            evaluation = statistics.evaluation(m)
            entry.values[ACCURACY] = statistics.score(evaluation)
            entry.higher_is_better = evaluation.higher_is_better
        elif m.metric in names:
            entry.values[names[m.metric]] = m.samples[0]
    return found


def _refuse_other_machine(records: Mapping[str, store.Record]) -> None:
    def machine(record: store.Record) -> tuple[Any, Any, Any]:
        cpu = record.environment.get("cpu", {})
        gpus = [gpu.get("name") for gpu in record.environment.get("gpus", [])]
        return (record.environment.get("machine"), cpu.get("model"), gpus)

    base, head = machine(records[BASE]), machine(records[HEAD])
    if base != head:
        raise PyprodError(f"records of different machines can't be gated: {base[0]} ({base[1]}), {head[0]} ({head[1]})")


def _commit(record: store.Record) -> str:
    commit = record.environment.get("commit") or {}
    return str(commit.get("hash", "") if isinstance(commit, dict) else commit)
