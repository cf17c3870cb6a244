"""Choosing the suite's candidates and measuring them, problem by problem: every peer of a problem side by side."""

from __future__ import annotations

import datetime
import fnmatch
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pyprod import bench, ceilings, discover, environment
from pyprod.kernel_suite import peers, problems
from pyprod.kernel_suite.subject import payload
from pyprod.measure import store
from pyprod.measure.heat import Entry, Progress, Settings, Sink, now
from pyprod.measure.relay import Relay
from pyprod.progress import Bar
from pyprod.types import Candidate, Failure, Measurement, PyprodError

NAME = "kernels"
#: Five rounds are the fewest that the trimmed mean trims; a slice is 20 calls, or 8 ms where calls are longer (with
#: several threads relay.THREADS_SLICE_NS).
SETTINGS = Settings(rounds=5, slice_s=0.008, max_samples=20, warmup_s=0.0, timeout_s=120.0)
THREADS = (1, 2)


def select(
    patterns: Sequence[str] = (),
    *,
    backend_names: Sequence[str] = (),
    batches: Sequence[int] = (),
    threads: Sequence[int] = THREADS,
) -> tuple[Candidate, ...]:
    """Every peer of every problem, narrowed to ids that match one of `patterns` (shell globs), if any.

    Args:
        backend_names: peers as "family.variant" or "family"; empty for all.
        batches: numbers of rows; empty for each kind's own.

    Raises:
        PyprodError: a name does not exist, or nothing matches.
    """
    names = {name for name, _, _ in peers.known()}
    for wanted in backend_names:
        if not any(_named(name, wanted) for name in names):
            raise PyprodError(discover.unknown("peer", wanted, names))
    everything = list(_everything(batches, threads))
    named = [c for c in everything if not backend_names or any(_named(c.backend, wanted) for wanted in backend_names)]
    chosen = [c for c in named if not patterns or any(fnmatch.fnmatch(c.id, p) for p in patterns)]
    if not chosen:
        raise PyprodError(discover.unknown("candidate", ", ".join(patterns), (c.id for c in everything)))
    return tuple(chosen)


def _named(peer: str, wanted: str) -> bool:
    return wanted in (peer, peer.partition(".")[0])


def _everything(batches: Sequence[int], threads: Sequence[int]) -> Iterator[Candidate]:
    """Each peer on what it can do. A family whose package is missing has no variants: it is shown at linears."""
    known = [(name, variant.kinds if variant else ("linear",)) for name, variant, _ in peers.known()]
    for kind in problems.kinds():
        module = problems.module(kind)
        counts = [n for n in threads if n in getattr(module, "THREADS", threads)]
        for sizes, batch, count in itertools.product(module.SIZES, batches or module.BATCHES, counts):
            workload = problems.name(kind, sizes)
            yield from (Candidate(workload, name, batch=batch, threads=count) for name, can in known if kind in can)


def create(plan: bench.Plan, root: Path) -> Path:
    """Make a new record that holds the plan, the machine and its ceilings, which are measured now (20 s).

    Raises:
        PyprodError: the plan asks for more threads than there are CPUs.
    """
    bench.slots(max(c.threads for c in plan.candidates))
    with Bar("measuring ceilings") as bar:
        about = environment.fingerprint() | {"ceilings": ceilings.ceilings(bar)}
    name = f"{datetime.date.today().isoformat()}-{environment.machine()}-{NAME}"
    return store.create(root, name, about, plan.to_json() | {"suite": NAME})


def resume(path: Path, progress: Progress) -> None:
    """Measure what the record at `path` still lacks."""
    before = store.read(path)
    with store.Writer(path) as writer:
        measure(bench.Plan.from_json(before.plan), writer.append, progress, before.measurements)


def measure(plan: bench.Plan, sink: Sink, progress: Progress, before: Iterable[Measurement] = ()) -> None:
    """Measure what `plan` asks for and hand every measurement to `sink` as it is taken.

    Args:
        before: measurements that exist already. A problem that they do not complete is measured again as a whole, in
            rounds of its own.
    """
    history = _History(plan.settings.rounds)
    for measurement in before:
        history.add(measurement)

    def keep(measurement: Measurement) -> None:
        sink(measurement)
        history.add(measurement)

    rng = random.Random(plan.settings.seed)
    unavailable = {c.backend: why for c in plan.candidates if (why := peers.unavailable(c.backend))}
    for threads, candidates in itertools.groupby(sorted(plan.candidates, key=_order), key=lambda c: c.threads):
        with Relay("pyprod.kernel_suite.subject:subject", bench.slots(threads), plan.settings, keep, progress) as relay:
            for _, members in itertools.groupby(candidates, key=_order):
                waiting = [c for c in members if c not in history.failed]
                if all(map(history.done, waiting)):
                    continue
                worthy = [c for c in waiting if _worth(c, history, unavailable, keep)]
                entries = [Entry(c, payload(c), 0, False) for c in worthy]
                twins = [Entry(c, payload(c), 1, False) for c in worthy if _has_twin(c)]
                progress.planned((len(entries) + len(twins)) * (1 + plan.settings.rounds))
                relay.problem([*entries, *twins], history.next_round(waiting), rng)


def _order(candidate: Candidate) -> tuple[int, str, int]:
    """Problems with the same weights follow each other, fewest rows first."""
    return (candidate.threads, candidate.workload, candidate.batch)


def _has_twin(candidate: Candidate) -> bool:
    kind, _ = problems.parse(candidate.workload)
    return bool(candidate.backend == problems.module(kind).OURS[0])


def _worth(
    candidate: Candidate,
    history: _History,
    unavailable: Mapping[str, PyprodError],
    keep: Callable[[Measurement], None],
) -> bool:
    """False, with a failure kept, where the peer can't run here or was too slow already with fewer rows."""
    if why := unavailable.get(candidate.backend):
        failure = Failure("unavailable", "build", str(why))
    elif (rows := history.too_slow(candidate)) is not None:
        failure = Failure("skipped", "build", f"too slow with {rows} rows already")
    else:
        return True
    keep(Measurement(candidate, "failure", "", (), failure=failure, taken_at=now()))
    return False


class _History:
    """What has been measured so far, as far as the next step depends on it."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._taken: dict[Candidate, set[int]] = defaultdict(set)
        self._too_slow: dict[tuple[str, str, int], int] = {}
        self.failed: set[Candidate] = set()

    def add(self, measurement: Measurement) -> None:
        candidate, failure = measurement.candidate, measurement.failure
        if measurement.metric == "latency":
            self._taken[candidate].add(measurement.round)
        elif failure and not measurement.replica:
            self.failed.add(candidate)
            if failure.kind == "timeout" or (failure.kind == "skipped" and failure.stage == "check"):
                self._too_slow.setdefault(_peer(candidate), candidate.batch)

    def done(self, candidate: Candidate) -> bool:
        return len(self._taken[candidate]) >= self._rounds

    def next_round(self, candidates: Iterable[Candidate]) -> int:
        """The first that none of them has."""
        return 1 + max((number for c in candidates for number in self._taken[c]), default=-1)

    def too_slow(self, candidate: Candidate) -> int | None:
        """With how few rows it was too slow, if with fewer than these."""
        rows = self._too_slow.get(_peer(candidate))
        return rows if rows is not None and rows < candidate.batch else None


def _peer(candidate: Candidate) -> tuple[str, str, int]:
    return (candidate.workload, candidate.backend, candidate.threads)
