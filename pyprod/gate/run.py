"""Run a gate: pair after pair of fresh processes, until every row is decided or the budget is spent."""

from __future__ import annotations

import fnmatch
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyprod import discover, environment
from pyprod.gate.book import ENERGY, LATENCY, PEAK_MEMORY, SIZE, THROUGHPUT, Book
from pyprod.gate.evidence import FORMAT, Writer, summary
from pyprod.gate.nursery import Nursery
from pyprod.gate.pairs import Pair, SideFailed, SidesFailed, load_average
from pyprod.gate.place import MOST_WINDOWS
from pyprod.gate.settings import Settings
from pyprod.gate.sides import BASE, HEAD, SIDES
from pyprod.measure.subject import Observation
from pyprod.types import PyprodError

#: What has one value or more in every pair.
METRICS = (LATENCY, THROUGHPUT, PEAK_MEMORY)

#: Memory that all windows of a benchmark (`pyprod.gate.place.Memory`) together may take.
WINDOWS_BYTES = 1 << 30

#: A pair takes 1 s to start: where few benchmarks are open, there are more turns, to fill that share of the budget.
PAIR_SHARE, MOST_TURNS = 0.03, 8

#: Called with the fraction of the budget that is spent and what happens now.
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Sides:
    """What is compared.

    Attributes:
        trees: for each side the built folders, one for each layout, in the same order.
        path: folders in it that modules are imported from.
        suite: HEAD's files of benchmarks: both sides do this work.
        own_suite: BASE's own, to learn what HEAD does not define any more.
        checkout: the repository both came from.
        outputs: by name, a built file's size on each side.
    """

    trees: Mapping[str, Sequence[Path]]
    path: Sequence[str]
    suite: Sequence[Path]
    own_suite: Sequence[Path]
    checkout: Path
    outputs: Mapping[str, Mapping[str, int]]


def cpus(threads: int) -> list[int]:
    """Those that both sides are timed on.

    Raises:
        PyprodError: there are fewer than threads.
    """
    found = environment.cpus(threads)
    if len(found) < threads:
        raise PyprodError(f"--threads {threads}: this process may use {len(found)} CPUs only")
    return found


class Gate:
    """One run: measures pairs and writes each event down.

    Raises:
        PyprodError: (from `run`) the suite can't be imported in HEAD, or the disk is full.
    """

    def __init__(self, sides: Sides, settings: Settings, writer: Writer, book: Book, progress: Progress) -> None:
        self._sides, self._settings = sides, settings
        self._writer, self._book, self._progress = writer, book, progress
        self._rng = random.Random(settings.seed)
        self._all_cpus = environment.allowed_cpus()
        self._cpus = cpus(settings.threads)
        self._nursery = Nursery(settings.threads, self._rng, settings.realtime, settings.timeout_s)
        self._layouts = list(range(len(sides.trees[HEAD])))
        self._rng.shuffle(self._layouts)
        self._started = 0.0
        self._turn_s = 0.02

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write down what is asked for: the evidence begins with it.

        Args:
            about: what the evidence shall say of the run: revisions, command, machine.
        """
        settings = asdict(self._settings)
        rule = settings.pop("rule")
        self._writer.record(
            "plan", format=FORMAT, rule=rule, settings=settings, tolerances=self._settings.tolerances(), **about
        )

    def run(self) -> None:
        """Measure until decided or out of budget."""
        for name, sizes in self._sides.outputs.items():
            self._writer.record("exact", benchmark=name, metric=SIZE, **sizes)
        with self._nursery:
            self._inventory()
            self._started = time.monotonic()
            for number in self._pairs():
                self._pair(number)
        self._writer.record("verdict", **summary(self._book))

    def _inventory(self) -> None:
        """What HEAD defines, and what it does not any more."""
        self._progress(0.0, "importing the suite")
        own = {BASE: self._sides.own_suite, HEAD: self._sides.suite}
        try:
            files = self._files(own)
        except SideFailed:  # BASE's own suite does not run: what HEAD's gives there is said row by row
            files = self._files(own | {BASE: ()})
        root = self._sides.trees[HEAD][0]
        metrics = (*METRICS, ENERGY) if self._settings.energy_s else METRICS
        names = {name: str(Path(file).relative_to(root)) for name, file in files[HEAD].items() if self._selected(name)}
        vanished = sorted(name for name in files[BASE].keys() - files[HEAD].keys() if self._selected(name))
        if not names and not vanished:
            raise PyprodError(discover.unknown("benchmark", ", ".join(self._settings.select), files[HEAD]))
        self._writer.record("inventory", benchmarks=names, vanished=vanished, metrics=metrics)

    def _selected(self, name: str) -> bool:
        patterns = self._settings.select
        return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    def _files(self, suite: Mapping[str, Sequence[Path]]) -> Mapping[str, Mapping[str, str]]:
        """By side and benchmark, the file.

        Raises:
            PyprodError: HEAD can't import its suite.
            SideFailed: BASE can't.
        """
        try:
            with self._new_pair(suite, 0) as pair:
                self._nursery.preload = [name for name in pair.foreign[HEAD] if name in set(pair.foreign[BASE])]
                self._nursery.renew()
                return pair.files
        except SideFailed as error:
            if error.side == HEAD:
                raise PyprodError(f"HEAD can't import the suite: {error.failure.message}") from error
            raise

    def _pairs(self) -> Iterator[int]:
        """Numbers of pairs to measure; looks are taken in between, the last when no further pair fits the budget."""
        looks = self._settings.rule.looks
        number, last = 0, 0.0
        while self._book.open_benchmarks():
            before = self._spent()
            if number and before + last / 2 > 1:
                self._look(looks[-1])
                return
            yield number
            number, last = number + 1, self._spent() - before
            due = [look for look in looks[:-1] if self._book.looked < look <= self._spent()]
            if due:
                self._look(due[-1])
            elif number == self._settings.rule.min_pairs and not self._book.looked and self._spent() < looks[0]:
                self._look(round(self._spent(), 4))  # what is plain needs no more; it costs next to none of the risk

    def _look(self, fraction: float) -> None:
        self._writer.record("look", fraction=fraction)

    def _spent(self) -> float:
        return (time.monotonic() - self._started) / self._settings.budget_s

    def _new_pair(self, suite: Mapping[str, Sequence[Path]], layout: int) -> Pair:
        settings = self._settings
        return Pair(
            self._nursery,
            {side: trees[layout] for side, trees in self._sides.trees.items()},
            self._sides.path,
            suite,
            self._sides.checkout,
            self._cpus,
            self._all_cpus,
            self._rng,
            settings.timeout_s,
            settings.device,
            settings.cold,
        )

    def _pair(self, number: int) -> None:
        """One pair of processes through every open benchmark; a pair that died has a successor."""
        waiting = self._book.open_benchmarks()
        self._rng.shuffle(waiting)
        turns = self._turns(len(waiting))
        suite = dict.fromkeys(SIDES, self._sides.suite)
        layout = self._layouts[number % len(self._layouts)]
        while waiting:
            try:
                with self._new_pair(suite, layout) as pair:
                    about = {"load": load_average(), "realtime": self._nursery.is_realtime, "cpus": self._cpus}
                    origin = {"layout": layout, "zygote": self._nursery.started}
                    self._writer.record("pair", pair=number, **about, **origin)
                    while waiting:
                        self._progress(self._spent(), f"pair {number + 1}: {waiting[-1]}")
                        if not self._benchmark(pair, number, waiting.pop(), turns):
                            break
            except SideFailed as error:
                for name in waiting:
                    self._failed(name, number, error)
                return

    def _turns(self, benchmarks: int) -> int:
        """How often the sides take turns on each of so many benchmarks: a pair's start costs the same for any."""
        least, wanted = self._settings.alternations, self._settings.budget_s * PAIR_SHARE
        return max(least, min(MOST_TURNS * least, round(wanted / (benchmarks * self._turn_s))))

    def _benchmark(self, pair: Pair, number: int, name: str, turns: int) -> bool:
        """Measure one benchmark in one pair; False when a process died of it."""
        try:
            ready = pair.both("setup", name=name, seed=f"{self._settings.seed}/{number}/{name}")
            self._device(name, number, ready)
            extent = max(found.context["extent"] for (found,) in ready.values())
            windows = max(1, min(MOST_WINDOWS, WINDOWS_BYTES // max(1, extent)))
            started = time.monotonic()
            for turn in range(turns):
                self._alternate(pair, number, name, turn % windows)
            self._turn_s = (time.monotonic() - started) / turns
            peaks = pair.both("memory")
            self._value(name, PEAK_MEMORY, number, peaks)
            if seconds := self._settings.energy_s:
                self._value(name, ENERGY, number, pair.both("energy", data=self._draw(), seconds=seconds))
            error = pair.output_error(self._draw())
        except SidesFailed as found:
            for failed in found.failed:
                self._failed(name, number, failed)
            return not any(failed.deadly for failed in found.failed)
        self._writer.record("output", benchmark=name, pair=number, relative_error=error if error < math.inf else None)
        return True

    def _value(self, name: str, metric: str, number: int, answers: Mapping[str, Sequence[Observation]]) -> None:
        """What both sides were measured as once in the pair, if both say."""
        if all(answers.values()):
            values = {side: answer[0].samples[0] for side, answer in answers.items()}
            self._writer.record("value", benchmark=name, metric=metric, pair=number, **values)

    def _device(self, name: str, number: int, ready: Mapping[str, Sequence[Observation]]) -> None:
        """What a GPU's side says of itself."""
        for side, (found,) in ready.items():
            if "biases" in found.context:
                about = {"graph": found.context["graph"], "biases": found.context["biases"]}
                self._writer.record("device", benchmark=name, pair=number, side=side, **about)

    def _alternate(self, pair: Pair, number: int, name: str, window: int) -> None:
        """Both sides once, in a drawn order, on the same new input."""
        settings = self._settings
        answers = pair.both(
            "slice",
            window=window,
            data=self._draw(),
            settle_ns=int(settings.settle_s * 1e9),
            min_count=settings.least_samples,
            max_count=settings.most_samples,
            max_ns=int(settings.slice_s * 1e9),
        )
        sides = {side: {"latency_ns": list(found.samples), **found.context} for side, (found,) in answers.items()}
        self._writer.record("sample", benchmark=name, pair=number, first=next(iter(answers)), **sides)

    def _failed(self, name: str, number: int, error: SideFailed) -> None:
        self._writer.record("failure", benchmark=name, pair=number, side=error.side, failure=asdict(error.failure))

    def _draw(self) -> int:
        return self._rng.randrange(2**31)
