"""The parent's side of a pair: two fresh processes, BASE and HEAD, that take turns on the same CPUs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pyprod.gate.place import LIBRARY
from pyprod.gate.sides import SIDES
from pyprod.measure.process import Worker, WorkerFailed, launch, worker_environment
from pyprod.measure.subject import Observation
from pyprod.types import Failure, PyprodError

#: What importing torch may take, however short a stage's time is: seconds, on a machine with other things to do.
START_S = 60.0


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


class _Ends:
    """How forked processes ended, as their zygote, whose children they are, tells."""

    def __init__(self, status: Connection) -> None:
        self._status = status
        self._known: dict[str, int] = {}

    def of(self, side: str) -> int:
        """Wait for the end of a side; as if killed, when the zygote is gone as well."""
        while side not in self._known:
            try:
                self._known.update(json.loads(self._status.recv_bytes()))
            except (EOFError, OSError):
                return -signal.SIGKILL
        return self._known[side]


class _Forked:
    """A side's process, for `Worker`."""

    def __init__(self, pid: int, side: str, ends: _Ends) -> None:
        self.pid = pid
        self._side, self._ends = side, ends

    def wait(self) -> int:
        return self._ends.of(self._side)


class Pair:
    """Both sides' processes, loaded, in an environment drawn for this pair. Leaving the context ends them.

    Attributes:
        files: by side and benchmark, the file that defines it.
        is_realtime: whether the kernel granted real-time scheduling.

    Args:
        trees: folder of each side.
        path: folders in each that modules are imported from.
        suite: for each side the files that define its benchmarks.
        checkout: the repository's folder.
        cpus: where timing happens; each side starts on one of `all_cpus`, both at once.
        rng: what is drawn for the pair comes from it.
        timeout: seconds for a stage.
        realtime: ask for real-time scheduling.
        device: "cpu" or "cuda".
        cold: on a GPU, overwrite the second level cache before each sample.

    Raises:
        SideFailed: (from entering) a side's process could not import the suite.
    """

    def __init__(
        self,
        trees: Mapping[str, Path],
        path: Sequence[str],
        suite: Mapping[str, Sequence[Path]],
        checkout: Path,
        cpus: Sequence[int],
        all_cpus: Sequence[int],
        rng: random.Random,
        timeout: float,
        realtime: bool,
        device: str = "cpu",
        cold: bool = True,
    ) -> None:
        self._trees, self._path, self._suite, self._checkout = trees, path, suite, checkout
        self._cpus, self._all_cpus = cpus, all_cpus
        self._rng, self._timeout, self._realtime = rng, timeout, realtime
        self._device, self._cold = device, cold
        self._workers: dict[str, Worker] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="pyprod-gate-", ignore_cleanup_errors=True)
        self._zygote: subprocess.Popen[bytes] | None = None
        self.files: dict[str, dict[str, str]] = {}
        self.is_realtime = False

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
        if self._zygote:
            self._zygote.kill()
            self._zygote.wait()
        self._scratch.cleanup()

    def _start(self) -> None:
        sides = self.order()
        # The size of the environment moves the stack: drawn, and the same for both.
        environment = worker_environment(len(self._cpus)) | {"PYPROD_GATE_PAD": "x" * self._rng.randrange(4096)}
        # What the caller has on its path, or lies in its folder, must not be found instead of the revision's modules.
        environment |= {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
        if LIBRARY.is_file():
            environment["LD_PRELOAD"] = str(LIBRARY)
        self._fork(environment)
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
            self.files[side] = loaded.context["files"]
            self._workers[side].pin(self._cpus)
            self._workers[side].pause()

    def _fork(self, environment: Mapping[str, str]) -> None:
        """Start the zygote, and have it fork both sides."""
        folder = Path(self._scratch.name)
        pipes = {side: Pipe() for side in SIDES}
        status, theirs = Pipe()
        ends = [*(pipes[side][1] for side in SIDES), theirs]
        self._zygote = launch("pyprod.gate.zygote", [str(folder)], ends, environment, folder / "zygote.log")
        for end in ends:
            end.close()
        self._ask_for_realtime()
        try:
            patience = max(self._timeout, START_S)
            if not status.poll(patience):
                raise PyprodError(f"importing torch took longer than {patience:g} s: raise --timeout")
            pids = json.loads(status.recv_bytes())
        except EOFError:
            words = (folder / "zygote.log").read_text(errors="replace").strip().splitlines()
            raise PyprodError(f"the processes could not be started: {words[-1] if words else 'no message'}") from None
        ends_of = _Ends(status)
        for side in SIDES:
            process = _Forked(pids[side], side, ends_of)
            self._workers[side] = Worker(process, pipes[side][0], folder / f"{side}.log", self._all_cpus)

    def _ask_for_realtime(self) -> None:
        """For the zygote, whose sides inherit it: on a busy machine imports too are then done in their time."""
        if self._realtime and self._zygote and hasattr(os, "sched_setscheduler"):
            with contextlib.suppress(OSError):  # not permitted
                os.sched_setscheduler(self._zygote.pid, os.SCHED_FIFO, os.sched_param(1))
                self.is_realtime = True

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
