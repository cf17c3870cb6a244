"""Many small problems, one after the other, in workers that outlive them.

Where a call takes microseconds, a fresh process for each would cost a thousand times what is measured. A relay keeps
one process per *lane* (backend, threads, replica). For each problem every lane builds its candidate, one slot each at
a time, and is then timed in rounds while the others are stopped, as in a heat.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from pyprod.measure.heat import Entry, Heat, Progress, Settings, Sink, now
from pyprod.measure.process import Worker
from pyprod.measure.subject import Observation
from pyprod.types import Candidate, Failure, Measurement

Lane = tuple[str, int, int]
_Key = tuple[Candidate, int]

#: A candidate whose trial call takes longer than this many times the fastest one's ...
TOO_SLOW = 4.0
#: ... is skipped, if it also takes longer than this, seconds: below, its rounds cost next to nothing.
WORTH_SKIPPING_S = 0.03
#: Calls at the start of a slice are not recorded for so long: interpreter, branch predictor and the near caches were
#: another process's, and twenty calls of some microseconds would be over before they are warm.
SETTLE_NS = 1_000_000
#: A slice of several threads may last so long: for a tick of the scheduler or two, 4 ms each, threads that wait for
#: each other may share a CPU, and such calls must not be most of a slice.
THREADS_SLICE_NS = 60_000_000
#: A lane whose process died so often starts no other.
MOST_DEATHS = 3
#: What a process does not survive, or should not: memory that a library lost is not given back.
_DEADLY = ("crash", "timeout", "out_of_memory")


class Relay(Heat):
    """The lanes' workers. A context manager: leaving it, however, ends them all.

    A subject may say in its check how long one call takes, as the metric "trial" in seconds: the slow ones are skipped.
    """

    def __init__(
        self, factory: str, cpus: Mapping[int, Sequence[int]], settings: Settings, sink: Sink, progress: Progress
    ) -> None:
        super().__init__(factory, cpus, settings, sink, progress)
        self._lanes: dict[Lane, Worker] = {}
        self._deaths: Counter[Lane] = Counter()
        self._trials: dict[_Key, float] = {}

    def __enter__(self) -> Relay:
        return self

    def problem(self, entries: Sequence[Entry], first_round: int, rng: random.Random) -> None:
        """Measure candidates of one cohort side by side; their workers stay for the next problem."""
        self._trials.clear()
        self.build(deque(entries))
        self._skip_slow()
        self.time(first_round, rng)
        self._workers.clear()

    def time(self, first_round: int, rng: random.Random) -> None:
        """Take the rounds. Each slice begins with calls that are not recorded, and there is no other warm-up."""
        limits = {"max_count": self._settings.max_samples, "settle_ns": SETTLE_NS}
        slice_ns = int(self._settings.slice_s * 1e9)
        for number in range(first_round, first_round + self._settings.rounds):
            order = list(self._workers)
            rng.shuffle(order)
            for key in order:
                max_ns = slice_ns if key[0].threads == 1 else max(slice_ns, THREADS_SLICE_NS)
                if self._ask(key, "time", number, max_ns=max_ns, **limits):
                    self._progress.step(f"{key[0].workload} b{key[0].batch} t{key[0].threads}")

    def _build_one(self, entry: Entry, cpus: Sequence[int]) -> None:
        key = (entry.candidate, entry.replica)
        lane = _lane(key)
        if self._deaths[lane] >= MOST_DEATHS:
            self._refuse(key, Failure("skipped", "build", f"its process died {MOST_DEATHS} times on other problems"))
            return
        with self._lock:
            worker = self._lanes.get(lane)
            if worker:
                self._workers[key] = worker
        if worker:
            worker.pin(cpus)
        else:
            worker = self._lanes[lane] = self._start(key, cpus)
        if self._ask(key, "build", payload=dict(entry.payload)) and self._ask(key, "check"):
            worker.pin(self._cpus[0])
            worker.pause()
            self._progress.step(f"built {entry.candidate.backend}")

    def _skip_slow(self) -> None:
        limit = max(WORTH_SKIPPING_S, TOO_SLOW * min(self._trials.values(), default=0.0))
        for key in list(self._workers):
            if (taken := self._trials.get(key, 0.0)) > limit:
                message = f"a call takes {taken:.2g} s: over {TOO_SLOW:g} times the fastest one's"
                self._drop(key, Failure("skipped", "check", message), building=False)

    def _record(self, key: _Key, observation: Observation, number: int) -> None:
        """Keep latencies only, of what a slice says: a suite has tens of thousands of slices."""
        if observation.metric == "trial":
            self._trials[key] = observation.samples[0]
        elif observation.metric != "throughput":
            super()._record(key, observation, number)

    def _let_go(self, key: _Key, failure: Failure) -> None:
        """A worker that lives is stopped and goes on with the next problem; one that died gets a successor then."""
        worker = self._workers.pop(key)
        if failure.kind in _DEADLY or self._ending:
            self._lanes.pop(_lane(key), None)
            self._deaths[_lane(key)] += 1
            worker.close()
        else:
            worker.pause()

    def _refuse(self, key: _Key, failure: Failure) -> None:
        with self._lock:
            self._sink(Measurement(key[0], "failure", "", (), 0, key[1], failure, {}, now()))
        self._progress.failed(key[0], failure)
        self._progress.planned(-(1 + self._settings.rounds))

    def _end(self) -> None:
        super()._end()
        for worker in self._lanes.values():
            worker.close()


def _lane(key: _Key) -> Lane:
    candidate, replica = key
    return (candidate.backend, candidate.threads, replica)
