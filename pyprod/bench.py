"""Measuring candidates: choose them, measure each cohort side by side, keep every sample. The verb ``pyprod bench``."""

from __future__ import annotations

import datetime
import fnmatch
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pyprod import __version__, backends, build, discover, environment, workloads
from pyprod.measure import heat, store
from pyprod.measure.heat import Entry, Settings
from pyprod.types import Candidate, Failure, Measurement, PyprodError, Unavailable

BASELINE = "eager.fp32"
#: What ``make bench`` measures: both load in seconds and need no package registry once they are cached.
DEFAULT_WORKLOADS = ("encoder", "digits")
FULL_BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Plan:
    """What is to be measured and how: stored with the record, so that it can be resumed and understood."""

    candidates: tuple[Candidate, ...]
    settings: Settings = field(default_factory=Settings)

    def to_json(self) -> dict[str, Any]:
        """The plan, the baseline that all ratios are taken against, and the command that asked for it."""
        return {
            "pyprod": __version__,
            "command": command(sys.argv),
            "baseline": BASELINE,
            "settings": asdict(self.settings),
            "candidates": [c.id for c in self.candidates],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse; the command is not part of the value."""
        return cls(tuple(map(Candidate.from_id, data["candidates"])), Settings(**data["settings"]))


def command(words: Sequence[str]) -> list[str]:
    """What was typed, without where the record goes: a folder of one machine, and no part of how numbers were taken."""
    words = list(words)
    while "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return [Path(words[0]).name, *(word for word in words[1:] if not word.startswith("--out="))]


def select(
    patterns: Sequence[str] = (),
    *,
    workload_names: Sequence[str] = DEFAULT_WORKLOADS,
    recipe_names: Sequence[str] = ("base",),
    backend_names: Sequence[str] = (),
    devices: Sequence[str] = ("cpu",),
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
) -> tuple[Candidate, ...]:
    """Every combination of what is named, narrowed to ids that match one of `patterns` (shell globs), if any.

    Args:
        workload_names: names or ``file.py:function``.
        recipe_names: what `pyprod.recipes.make` made before; "base" is the model as it is.
        backend_names: "family.variant", a family (all its variants), or empty for all there are.

    Raises:
        PyprodError: a name does not exist, or nothing matches.
    """
    for name in workload_names:
        if not name.rpartition(":")[0].endswith(".py") and name not in workloads.known():
            raise PyprodError(discover.unknown("workload", name, workloads.known()))
    candidates = [
        Candidate(workload, backend, recipe, device, batch, thread)
        for workload, recipe, device, batch, thread in itertools.product(
            workload_names, recipe_names, devices, batches, threads
        )
        for backend in _backends(backend_names, device)
    ]
    chosen = [c for c in candidates if not patterns or any(fnmatch.fnmatch(c.id, p) for p in patterns)]
    if not chosen:
        raise PyprodError(discover.unknown("candidate", ", ".join(patterns), (c.id for c in candidates)))
    return tuple(chosen)


def measure(
    plan: Plan,
    sink: Callable[[Measurement], None],
    progress: heat.Progress,
    before: Iterable[Measurement] = (),
    cache: Path | None = None,
) -> None:
    """Measure what `plan` asks for, cohort by cohort, and hand every measurement to `sink` as it is taken.

    Args:
        before: measurements that exist already; candidates that they complete are left out.
        cache: folder for what candidates share (exported files); by default the user's cache folder.
    """
    history = _History()
    for measurement in before:
        history.add(measurement)

    def keep(measurement: Measurement) -> None:
        sink(measurement)
        history.add(measurement)

    cache = cache or workloads.cache_dir() / "artifacts"
    cache.mkdir(parents=True, exist_ok=True)
    cohorts = itertools.groupby(sorted(plan.candidates, key=lambda c: c.cohort), key=lambda c: c.cohort)
    for (workload, device, batch, threads), members in cohorts:
        baseline = Candidate(workload, BASELINE, "base", device, batch, threads)
        waiting = [c for c in members if c != baseline and not history.done(c)]
        runnable = [c for c in waiting if _can_run(c, keep)]
        if not runnable and history.done(baseline):
            continue
        scored = history.scored
        heat.run(
            "pyprod.build:subject",
            [
                Entry(baseline, build.payload(baseline, cache), 0, baseline.form not in scored),
                Entry(baseline, build.payload(baseline, cache), 1, False),
            ],
            [Entry(c, build.payload(c, cache), 0, c.form not in scored) for c in runnable],
            slots(threads),
            plan.settings,
            history.next_round,
            keep,
            progress,
        )


def create(plan: Plan, root: Path) -> Path:
    """Make a new record under `root` that holds the plan and the machine; `resume` fills it.

    Raises:
        PyprodError: the plan asks for more threads than there are CPUs.
    """
    slots(max(c.threads for c in plan.candidates))
    name = f"{datetime.date.today().isoformat()}-{environment.machine()}"
    return store.create(root, name, environment.fingerprint(), plan.to_json())


def resume(path: Path, progress: heat.Progress) -> None:
    """Measure what the record at `path` still lacks."""
    before = store.read(path)
    with store.Writer(path) as writer:
        measure(Plan.from_json(before.plan), writer.append, progress, before.measurements)


def slots(threads: int) -> dict[int, list[int]]:
    """CPUs for each of the processes that may build at once: disjoint sets of `threads`. All timing is on slot 0.

    Raises:
        PyprodError: there are fewer CPUs than threads.
    """
    allowed = environment.cpus(os.cpu_count() or 1)
    if threads > len(allowed):
        raise PyprodError(f"{threads} threads asked for, but this process may use only {len(allowed)} CPUs")
    first = environment.cpus(threads)
    rest = [cpu for cpu in allowed if cpu not in first]
    others = [rest[i : i + threads] for i in range(0, len(rest) - threads + 1, threads)]
    return dict(enumerate([first, *others]))


class _History:
    """What has been measured so far, as far as the next step depends on it."""

    def __init__(self) -> None:
        self._done: set[Candidate] = set()
        self.scored: set[tuple[str, str, str, str]] = set()
        self.next_round = 0

    def add(self, measurement: Measurement) -> None:
        if measurement.replica:
            return
        if measurement.failure or measurement.metric == "peak_rss":  # memory is asked for after the last round
            self._done.add(measurement.candidate)
        elif measurement.metric == "latency":
            self.next_round = max(self.next_round, measurement.round + 1)
        elif measurement.metric == "accuracy":
            self.scored.add(measurement.candidate.form)

    def done(self, candidate: Candidate) -> bool:
        return candidate in self._done


def _backends(names: Sequence[str], device: str) -> list[str]:
    named = {name.partition(".")[0] for name in names}
    known = [name for name, _, _ in backends.known(device, named or None)]
    if not names:
        return known
    chosen = []
    for name in names:
        matching = [k for k in known if k == name or k.partition(".")[0] == name]
        if not matching:
            raise PyprodError(discover.unknown("backend", name, [n for n, _, _ in backends.known(device)]))
        chosen += matching
    return chosen


def _can_run(candidate: Candidate, keep: Callable[[Measurement], None]) -> bool:
    """False, with a failure kept, for a backend that says it can't run here: no process need be started for that."""
    try:
        module, variant = backends.split(candidate.backend)
        why = module.available(variant, candidate.device)
    except Unavailable as error:
        why = error
    if why:
        failure = Failure("unavailable", "build", str(why))
        keep(Measurement(candidate, "failure", "", (), failure=failure, taken_at=heat.now()))
    return why is None
