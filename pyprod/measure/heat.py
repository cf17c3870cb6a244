"""Measuring many candidates side by side, so that whatever drifts (clock, neighbors, temperature) hits all alike.

A *heat* is a set of candidates that are alive at once, each in a process of its own: as many as memory holds. All are
built first, some at a time; then timed in rounds, one process running and all others stopped, in a new random order
each round. Every heat starts with the baseline and its twin, so a ratio is always taken within one round of one heat.
"""

from __future__ import annotations

import datetime
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pyprod.measure import memory
from pyprod.measure.process import Worker, WorkerFailed, worker_environment
from pyprod.measure.subject import Observation
from pyprod.types import Candidate, Failure, Measurement

#: The next worker may take this many times what any so far took at its peak, while it was built: ten forms of the
#: decoder peaked at 2.9 to 4.4 GB and kept 1.1 to 2.2.
MEMORY_MARGIN = 1.25
#: ... and never less than this: an interpreter with torch and a small model, while it compiles.
MEMORY_FLOOR = 1 << 30
#: No budget cuts a heat below this: the 20% trimmed mean of five rounds drops the best and the worst of them.
FEWEST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how often to measure.

    Attributes:
        rounds: interleaved rounds per heat. Many short ones: a neighbor's burst lasts for seconds, spoils the rounds
            it falls into, and the interval trims those away as long as they are few.
        slice_s: seconds that one candidate is timed in one round.
        max_samples: at most so many calls per slice (a short slice says less than a record full of 10 µs calls costs).
        warmup_s: upper limit of the warm-up, seconds.
        timeout_s: a stage that takes longer has hung, seconds.
        budget_s: seconds of timing after which a heat takes no further round, once it has `FEWEST_ROUNDS`: where one
            call takes seconds, twenty rounds of forty candidates would take hours.
        seed: of the random order of the rounds.
    """

    rounds: int = 20
    slice_s: float = 0.12
    max_samples: int = 200
    warmup_s: float = 2.0
    timeout_s: float = 600.0
    budget_s: float = 120.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate at the start: what to build, where, and whether its outputs still have to be judged on data."""

    candidate: Candidate
    payload: Mapping[str, Any]
    replica: int = 0
    score: bool = True


class Progress(Protocol):
    """Told what happens, for whoever watches."""

    def planned(self, steps: int) -> None:
        """So many more steps are to come; negative when some fall away."""

    def step(self, what: str) -> None:
        """One step is done."""

    def failed(self, candidate: Candidate, failure: Failure) -> None:
        """A candidate is out."""


Sink = Callable[[Measurement], None]


def run(
    factory: str,
    baseline: Sequence[Entry],
    entries: Sequence[Entry],
    cpus: Mapping[int, Sequence[int]],
    settings: Settings,
    first_round: int,
    sink: Sink,
    progress: Progress,
) -> None:
    """Measure one cohort: all `entries` beside the `baseline`, in as many heats as memory asks for.

    Args:
        factory: ``module:function`` that makes a Subject from an entry's payload, in the worker.
        baseline: entries that take part in every heat: the reference of all ratios and its A/A twin.
        cpus: for each build slot the CPUs that it may use; slot 0 is where all timing happens.
        first_round: number of the first round: one that the record does not have yet.
        sink: takes each measurement as soon as it is taken; called by one thread at a time.
    """
    waiting = deque(entries)
    rng = random.Random(settings.seed + first_round)
    progress.planned(len(entries) * (1 + settings.rounds))
    while True:
        with Heat(factory, cpus, settings, sink, progress) as heat:
            progress.planned(len(baseline) * (1 + settings.rounds))
            heat.build(deque(baseline))
            heat.build(waiting, keep_room=True)
            heat.time(first_round, rng)
        first_round += settings.rounds
        if not waiting:
            return


class Heat:
    """The workers that are alive at once. A context manager: leaving it, however, ends them all."""

    def __init__(
        self, factory: str, cpus: Mapping[int, Sequence[int]], settings: Settings, sink: Sink, progress: Progress
    ) -> None:
        self._factory = factory
        self._cpus = cpus
        self._settings = settings
        self._sink = sink
        self._progress = progress
        self._lock = threading.Lock()
        self._workers: dict[tuple[Candidate, int], Worker] = {}
        self._peak = 0
        self._ending = False
        # Kept as long as the workers: Linux counts a worker as orphaned when the *thread* that started it ends.
        self._pool = ThreadPoolExecutor(len(cpus))
        self._scratch = tempfile.TemporaryDirectory(prefix="pyprod-", ignore_cleanup_errors=True)

    def __enter__(self) -> Heat:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._pool.shutdown()
        self._scratch.cleanup()

    def build(self, waiting: deque[Entry], keep_room: bool = False) -> None:
        """Build, check and score entries from the left of `waiting`, a slot each at a time.

        With `keep_room`, stop taking more when memory may not hold another: what is left waits for the next heat.
        A heat always takes at least one, or nothing would ever be measured.
        """
        taken = 0

        def take() -> Entry | None:
            nonlocal taken
            with self._lock:
                if self._ending or not waiting or (keep_room and taken and not self._has_room()):
                    return None
                taken += 1
                return waiting.popleft()

        def work(slot: int) -> None:
            while entry := take():
                self._build_one(entry, self._cpus[slot])

        for done in [self._pool.submit(work, slot) for slot in self._cpus]:
            done.result()

    def time(self, first_round: int, rng: random.Random) -> None:
        """Warm everyone up, take the rounds, then ask for peak memory."""
        for key in list(self._workers):
            self._ask(key, "warmup", max_ns=int(self._settings.warmup_s * 1e9))
        limits = {"max_count": self._settings.max_samples, "max_ns": int(self._settings.slice_s * 1e9)}
        deadline = time.monotonic() + self._settings.budget_s
        for taken in range(self._settings.rounds):
            if taken >= FEWEST_ROUNDS and time.monotonic() >= deadline:
                self._progress.planned(-len(self._workers) * (self._settings.rounds - taken))
                break
            number = first_round + taken
            order = list(self._workers)
            rng.shuffle(order)
            for key in order:
                if self._ask(key, "time", number, **limits):
                    self._progress.step(f"timed {key[0].backend}")
        for key in list(self._workers):
            self._ask(key, "memory")

    def _has_room(self) -> bool:
        need = max(MEMORY_FLOOR, int(MEMORY_MARGIN * self._peak))
        return memory.available() > need * len(self._cpus)  # other slots may be in the middle of a build

    def _build_one(self, entry: Entry, cpus: Sequence[int]) -> None:
        key = (entry.candidate, entry.replica)
        worker = self._start(key, cpus)
        if not self._ask(key, "build", payload=dict(entry.payload)) or not self._ask(key, "check"):
            return
        if entry.score and not self._ask(key, "score"):
            return
        self._peak = max(self._peak, worker.peak())
        if not self._ask(key, "release"):
            return
        worker.pin(self._cpus[0])
        worker.pause()
        self._progress.step(f"built {entry.candidate.backend}")

    def _start(self, key: tuple[Candidate, int], cpus: Sequence[int]) -> Worker:
        """A worker whose temporary files, caches included, are its own and go when the heat ends."""
        scratch = Path(tempfile.mkdtemp(dir=self._scratch.name))
        environment = worker_environment(key[0].threads) | {"TMPDIR": str(scratch)}
        with self._lock:  # so that an ending heat either sees this worker or none starts
            if self._ending:
                raise KeyboardInterrupt
            worker = self._workers[key] = Worker.start(self._factory, cpus, environment, scratch / "worker.log")
        return worker

    def _end(self) -> None:
        with self._lock:
            self._ending = True
            for worker in self._workers.values():
                worker.close()

    def _ask(self, key: tuple[Candidate, int], stage: str, /, number: int = 0, **arguments: Any) -> bool:
        """Have one worker do one stage, stopped before and after it is timed; False when it failed and is gone."""
        worker = self._workers[key]
        building = stage in ("build", "check", "score", "release")
        try:
            worker.resume()
            observations = worker.ask(stage, self._settings.timeout_s, **arguments)
            if not building:
                worker.pause()
        except WorkerFailed as error:
            self._drop(key, error.failure, building)
            return False
        for observation in observations:
            self._record(key, observation, number)
        return True

    def _drop(self, key: tuple[Candidate, int], failure: Failure, building: bool) -> None:
        candidate, replica = key
        with self._lock:
            self._let_go(key, failure)
            if self._ending:  # we killed it ourselves: that says nothing about the candidate
                return
            self._sink(Measurement(candidate, "failure", "", (), 0, replica, failure, {}, now()))
        self._progress.failed(candidate, failure)
        self._progress.planned(-(1 + self._settings.rounds) if building else -self._settings.rounds)

    def _let_go(self, key: tuple[Candidate, int], failure: Failure) -> None:
        """A worker whose candidate failed has nothing else to do; called with the lock held."""
        self._workers.pop(key).close()

    def _record(self, key: tuple[Candidate, int], observation: Observation, number: int) -> None:
        candidate, replica = key
        metric, unit, samples, context = observation
        with self._lock:
            self._sink(Measurement(candidate, metric, unit, tuple(samples), number, replica, None, context, now()))


def now() -> str:
    """UTC time as it is stored with a measurement, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
