"""What a gate knows: fed with events, one after the other, it comes to its verdict. No clock, no process, no file.

A running gate and ``--replay`` feed the same events to the same book, and so come to the same verdict. The events are
the lines of ``evidence.jsonl``; docs/gate.md lists their fields.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pyprod.gate.sides import BASE, HEAD
from pyprod.measure.decide import Decision, Rule, Verdict, decide, share
from pyprod.measure.statistics import Estimate
from pyprod.types import PyprodError

LATENCY, THROUGHPUT = "latency", "throughput"
PEAK_MEMORY, SIZE, ACCURACY, OUTPUT, ENERGY = "peak_memory", "size", "accuracy", "output", "energy"

#: Latency is this quantile of a turn's calls: what a call takes when nothing disturbs it. On a shared machine the
#: median has 1.4 times its noise. What slows down only some of the calls shows in the throughput.
UNDISTURBED = 0.1
#: Latencies have this part of the risk of a false alarm, all other metrics together the rest: those have little noise,
#: or wide tolerances, and can do with less.
LATENCY_RISK = 0.8


@dataclass
class Row:
    """One metric of one benchmark.

    Attributes:
        state: "measured"; "new": BASE can't run it; "skipped": neither side can; "failed": HEAD does not run it, or
            gives another output; "vanished": HEAD does not define it any more.
        pairs: by pair of processes, the log-ratios taken in it: above 0, HEAD is worse.
        values: by side, one value per turn, in the metric's unit.
        reason: one line, where the state is not "measured".
        decision: as of the look that decided, or of the last one.
        throttled: turns that do not count, because something held a side's GPU back.
    """

    benchmark: str
    metric: str
    state: str = "measured"
    reason: str = ""
    pairs: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    values: dict[str, list[float]] = field(default_factory=lambda: {BASE: [], HEAD: []})
    decision: Decision | None = None
    throttled: int = 0

    @property
    def verdict(self) -> Verdict | None:
        """None for what is not judged."""
        if self.state in ("failed", "vanished"):
            return Verdict.FAIL
        if self.state != "measured":
            return None
        return self.decision.verdict if self.decision else Verdict.UNDECIDED

    @property
    def open(self) -> bool:
        """Whether more pairs may decide it."""
        return self.verdict is Verdict.UNDECIDED

    def add(self, pair: int, base: float, head: float) -> None:
        """What both sides were measured as in a turn. Where more is better, the ratio is BASE over HEAD."""
        worse, better = (base, head) if self.metric == THROUGHPUT else (head, base)
        self.pairs[pair].append(math.log(worse / better) if base > 0 and head > 0 else math.nan)
        self.values[BASE].append(base)
        self.values[HEAD].append(head)

    def logs(self) -> list[float]:
        """One value per pair: the median over its alternations, which a moment's disturbance does not move."""
        return [float(np.median(found)) for _, found in sorted(self.pairs.items())]


class Book:
    """Rows by (benchmark, metric).

    Attributes:
        plan: what the evidence begins with: revisions, rule, settings, machine.
        files: by benchmark, the file of the suite that defines it.
        looked: fraction of the budget at the last look.
        biases: what makes the times of a device worth less.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.plan: Mapping[str, Any] = {}
        self.files: Mapping[str, str] = {}
        self.looked = 0.0
        self.biases: list[str] = []
        self.interrupted = False
        self._rule = Rule()
        self._judged: Counter[bool] = Counter()
        self._tolerances: Mapping[str, float] = {}

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event.

        Raises:
            PyprodError: its kind is unknown: a newer version wrote it.
        """
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is None:
            raise PyprodError(f"evidence has an event of the unknown kind {event['kind']!r}: a newer pyprod wrote it")
        handler(event)

    @property
    def verdict(self) -> Verdict | None:
        """Of the suite: FAIL if a row fails, else UNDECIDED if one is, else PASS; None when nothing was compared."""
        found = {row.verdict for row in self.rows.values()} - {None}
        for verdict in (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS):
            if verdict in found:
                return verdict
        return None

    def told(self) -> list[Row]:
        """The rows without repetition: what a benchmark as a whole suffered is told by its latency's row alone."""
        return [row for row in self.rows.values() if row.state == "measured" or row.metric == LATENCY]

    def open_benchmarks(self) -> list[str]:
        """Those that more pairs may decide; sorted."""
        return sorted({row.benchmark for row in self.rows.values() if row.open})

    def _on_plan(self, event: Mapping[str, Any]) -> None:
        self.plan = event
        rule = dict(event["rule"])
        self._rule = Rule(**rule | {"looks": tuple(rule["looks"])})
        self._tolerances = event["tolerances"]

    def _on_inventory(self, event: Mapping[str, Any]) -> None:
        """Names that HEAD's suite defines, with their files, and those that only BASE's own does."""
        self.files = event["benchmarks"]
        for name in self.files:
            for metric in event["metrics"]:
                self._row(name, metric)
        # what alpha is shared among, whatever fails later; an exact metric takes no risk
        self._judged = Counter(row.metric == LATENCY for row in self.rows.values() if row.decision is None)
        for name in event["vanished"]:
            row = self._row(name, LATENCY)
            row.state, row.reason = "vanished", "BASE's suite defines it, HEAD's does not"

    def _on_sample(self, event: Mapping[str, Any]) -> None:
        """One turn of both sides: the calls' durations, ns; one with a GPU that was held back compares nothing."""
        if any(event[side].get("throttled") for side in (BASE, HEAD)):
            for metric in (LATENCY, THROUGHPUT):
                self._row(event["benchmark"], metric).throttled += 1
            return
        base, head = (np.asarray(event[side]["latency_ns"], dtype=float) for side in (BASE, HEAD))
        latency, throughput = (self._row(event["benchmark"], metric) for metric in (LATENCY, THROUGHPUT))
        latency.add(event["pair"], *(float(np.quantile(x, UNDISTURBED)) for x in (base, head)))
        throughput.add(event["pair"], *(1e9 / float(np.mean(x)) for x in (base, head)))

    def _on_value(self, event: Mapping[str, Any]) -> None:
        """A metric that has one value a process, such as its peak memory."""
        self._row(event["benchmark"], event["metric"]).add(event["pair"], event[BASE], event[HEAD])

    def _on_exact(self, event: Mapping[str, Any]) -> None:
        """A metric without noise, such as a file's size: one value decides."""
        row = self._row(event["benchmark"], event["metric"])
        row.values = {BASE: [event[BASE]], HEAD: [event[HEAD]]}
        ratio, tolerance = event[HEAD] / event[BASE], self._tolerances[row.metric]
        if event.get("higher_is_better"):
            ratio = 1 / ratio
        verdict = Verdict.PASS if ratio <= 1 + tolerance else Verdict.FAIL
        row.decision = Decision(verdict, Estimate(ratio, ratio, ratio, 1), tolerance, 0.0, ratio < 1 - tolerance)

    def _on_output(self, event: Mapping[str, Any]) -> None:
        """HEAD's output against BASE's on the same new input."""
        error, limit = event["relative_error"], self._tolerances[OUTPUT]
        if not (error is not None and error <= limit):
            what = "of another size" if error is None else f"off by {error:.2g} of its norm, over {limit:g}"
            self._fail(event["benchmark"], f"HEAD's output is not BASE's: {what}")

    def _on_failure(self, event: Mapping[str, Any]) -> None:
        """A side could not be measured; the first failure of each side counts."""
        failure = event["failure"]
        reason = f"{event['side'].upper()}: {failure['kind']} in {failure['stage']}: {failure['message']}"
        if event["side"] == HEAD:
            self._fail(event["benchmark"], reason)
            return
        for row in self._rows_of(event["benchmark"]):
            if row.state in ("measured", "failed"):
                row.state, row.reason = ("new" if row.state == "measured" else "skipped"), reason

    def _on_look(self, event: Mapping[str, Any]) -> None:
        """Try to decide every open row."""
        for row in self.rows.values():
            if row.open and row.pairs:
                rule = replace(self._rule, tolerance=self._tolerances[row.metric])
                row.decision = decide(row.logs(), rule, self._rows_beside(row), share(self.looked, event["fraction"]))
        self.looked = event["fraction"]

    def _on_device(self, event: Mapping[str, Any]) -> None:
        """How a side's GPU is used and by whom."""
        self.biases += [bias for bias in event["biases"] if bias not in self.biases]

    def _on_pair(self, event: Mapping[str, Any]) -> None:
        """A pair of processes was started: for the reader of the evidence."""

    def _on_interrupted(self, event: Mapping[str, Any]) -> None:
        self.interrupted = True

    def _on_verdict(self, event: Mapping[str, Any]) -> None:
        """What the gate said at its end: for `pyprod.gate.evidence.replay` to compare with."""

    def _rows_beside(self, row: Row) -> float:
        """How many rows share alpha with one, itself included, if all of them had as much."""
        is_latency = row.metric == LATENCY
        return max(1, self._judged[is_latency]) / (LATENCY_RISK if is_latency else 1 - LATENCY_RISK)

    def _fail(self, benchmark: str, reason: str) -> None:
        for row in self._rows_of(benchmark):
            if row.state in ("measured", "new"):
                row.state, row.reason = ("failed" if row.state == "measured" else "skipped"), reason

    def _rows_of(self, benchmark: str) -> list[Row]:
        return [row for row in self.rows.values() if row.benchmark == benchmark]

    def _row(self, benchmark: str, metric: str) -> Row:
        return self.rows.setdefault((benchmark, metric), Row(benchmark, metric))
