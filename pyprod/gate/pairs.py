"""The parent's side of a pair: two fresh processes, BASE and HEAD, that take turns on the same CPUs."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyprod.gate.nursery import Nursery
from pyprod.gate.sides import SIDES
from pyprod.measure.process import Worker, WorkerFailed
from pyprod.measure.subject import Observation
from pyprod.types import Failure


class SideFailed(Exception):
    """A side that did not get through a stage; its process may be gone."""

    def __init__(self, side: str, failure: Failure) -> None:
        super().__init__(f"{side}: {failure.message}")
        self.side = side
        self.failure = failure

    @property
    def deadly(self) -> bool:
        """Whether the process is gone, or not to be trusted any more."""
        return self.failure.kind in ("crash", "timeout", "out_of_memory")


class SidesFailed(Exception):
    """One side's failure, or both's, in a stage that both were asked for."""

    def __init__(self, failed: Sequence[SideFailed]) -> None:
        super().__init__("; ".join(map(str, failed)))
        self.failed = failed


class Pair:
    """Both sides' processes, loaded, in an environment drawn for this pair. Leaving the context ends them.

    Attributes:
        files: by side and benchmark, the file that defines it.
        foreign: by side, the modules that loading the suite imported and that are no revision's own, in order.

    Args:
        nursery: forks them.
        trees: folder of each side.
        path: folders in each that modules are imported from.
        suite: for each side the files that define its benchmarks.
        checkout: the repository's folder.
        cpus: where timing happens; each side starts on one of `all_cpus`, both at once.
        rng: what is drawn for the pair comes from it.
        timeout: seconds for a stage.
        device: "cpu" or "cuda".
        cold: on a GPU, overwrite the second level cache before each sample.

    Raises:
        SideFailed: (from entering) a side's process could not import the suite.
    """

    def __init__(
        self,
        nursery: Nursery,
        trees: Mapping[str, Path],
        path: Sequence[str],
        suite: Mapping[str, Sequence[Path]],
        checkout: Path,
        cpus: Sequence[int],
        all_cpus: Sequence[int],
        rng: random.Random,
        timeout: float,
        device: str = "cpu",
        cold: bool = True,
    ) -> None:
        self._trees, self._path, self._suite, self._checkout = trees, path, suite, checkout
        self._cpus, self._all_cpus = cpus, all_cpus
        self._nursery, self._rng, self._timeout = nursery, rng, timeout
        self._device, self._cold = device, cold
        self._workers: Mapping[str, Worker] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="pyprod-gate-", ignore_cleanup_errors=True)
        self.files: dict[str, dict[str, str]] = {}
        self.foreign: dict[str, list[str]] = {}

    def __enter__(self) -> Pair:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        self._scratch.cleanup()

    def _start(self) -> None:
        sides = self.order()
        self._workers = self._nursery.fork(Path(self._scratch.name), self._all_cpus)
        for number, side in enumerate(sides):
            self._workers[side].pin([self._all_cpus[number % len(self._all_cpus)]])
            self._workers[side].send(
                "load",
                tree=str(self._trees[side]),
                path=list(self._path),
                suite=list(map(str, self._suite[side])),
                checkout=str(self._checkout),
                threads=len(self._cpus),
                device=self._device,
                cold=self._cold,
            )
        for side in sides:
            try:
                (loaded,) = self._workers[side].receive("load", self._timeout)
            except WorkerFailed as error:
                raise SideFailed(side, error.failure) from error
            self.files[side], self.foreign[side] = loaded.context["files"], loaded.context["foreign"]
            self._workers[side].pin(self._cpus)
            self._workers[side].pause()

    def order(self) -> Sequence[str]:
        """Both sides, in an order drawn anew."""
        return SIDES if self._rng.random() < 0.5 else SIDES[::-1]

    def ask(self, side: str, stage: str, **arguments: Any) -> list[Observation]:
        """Have one side do one stage while the other is stopped.

        Raises:
            SideFailed: it raised, died or took too long.
        """
        worker = self._workers[side]
        try:
            worker.resume()
            observations = worker.ask(stage, self._timeout, **arguments)
            worker.pause()
        except WorkerFailed as error:
            raise SideFailed(side, error.failure) from error
        return observations

    def both(self, stage: str, **arguments: Any) -> dict[str, list[Observation]]:
        """Have both sides do one stage, in an order drawn anew.

        Raises:
            SidesFailed: at least one did not get through; the other was asked all the same.
        """
        answers, failed = {}, []
        for side in self.order():
            try:
                answers[side] = self.ask(side, stage, **arguments)
            except SideFailed as error:
                failed.append(error)
        if failed:
            raise SidesFailed(failed)
        return answers

    def output_error(self, data: int) -> float:
        """Relative L2 distance of HEAD's output from BASE's on the same new input; infinite where the sizes differ.

        Raises:
            SidesFailed: a value is not finite.
        """
        self.both("output", data=data, folder=self._scratch.name)
        base, head = (np.load(Path(self._scratch.name, f"{side}.npy")) for side in SIDES)
        if base.shape != head.shape:
            return float("inf")
        scale = float(np.linalg.norm(base))
        return float(np.linalg.norm(head - base)) / scale if scale else float(np.linalg.norm(head) > 0)


def load_average() -> float | None:
    """Runnable processes over the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
