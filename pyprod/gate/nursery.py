"""The parent's side of a zygote: starts one, has it fork a few pairs, then starts the next, at other addresses."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pyprod.gate.place import LIBRARY
from pyprod.gate.sides import SIDES
from pyprod.measure.process import Worker, launch, worker_environment
from pyprod.types import PyprodError

#: Pairs from one zygote: it takes 5 s to import torch and what else the suite needs, a fork 0.3 s.
PAIRS = 8
#: What importing torch may take, however short a stage's time is: seconds, on a machine with other things to do.
START_S = 60.0
#: The most pages that a pair's libraries are moved by: 256 MB.
PAD_PAGES = 1 << 16


class Nursery:
    """Forks the processes of pairs. Leaving the context ends what runs.

    Attributes:
        preload: modules that both sides will import anyway, and no revision's own: imported once, before the forks.
        started: zygotes so far.
        is_realtime: whether the kernel granted real-time scheduling.

    Args:
        threads: what threading runtimes are held to.
        rng: sizes that move addresses are drawn from it.
        realtime: ask for real-time scheduling.
        timeout: seconds for a start.
    """

    def __init__(self, threads: int, rng: random.Random, realtime: bool, timeout: float) -> None:
        self._threads, self._rng, self._realtime = threads, rng, realtime
        self._patience = max(timeout, START_S)
        self._zygote: _Zygote | None = None
        self._priority = contextlib.ExitStack()
        self.preload: Sequence[str] = ()
        self.started = 0
        self.is_realtime = False

    def __enter__(self) -> Nursery:
        # Each turn waits for this process: on a busy machine it would be late, and the budget is spent on waiting.
        if self._realtime:
            self._priority.enter_context(_own_realtime())
        return self

    def __exit__(self, *_: object) -> None:
        self.renew()
        self._priority.close()

    def renew(self) -> None:
        """Have the next pair come from a new zygote."""
        if self._zygote:
            self._zygote.close()
            self._zygote = None

    def fork(self, logs: Path, cpus: Sequence[int]) -> Mapping[str, Worker]:
        """A new pair's processes, by side; those of the pair before have ended.

        Args:
            logs: folder for what they print.
            cpus: those that they may use.

        Raises:
            PyprodError: they can't be started.
        """
        if self._zygote and self._zygote.spent:
            self.renew()
        self._zygote = self._zygote or self._start()
        return self._zygote.fork(logs, cpus, self._rng.randrange(1, PAD_PAGES), self._patience)

    def _start(self) -> _Zygote:
        # The size of the environment moves the stack: drawn, and the same for both.
        environment = worker_environment(self._threads) | {"PYPROD_GATE_PAD": "x" * self._rng.randrange(4096)}
        # What the caller has on its path, or lies in its folder, must not be found instead of the revision's modules.
        environment |= {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
        if LIBRARY.is_file():
            environment["LD_PRELOAD"] = str(LIBRARY)
        zygote = _Zygote(environment)
        try:
            self.started += 1
            self.is_realtime = self._realtime and zygote.ask_for_realtime()
            threads = zygote.ask({"preload": self.preload}, self._patience)["started_threads"]
        except BaseException:
            zygote.close()
            raise
        if threads and self.preload:  # one of these modules started one, which would not survive a fork
            zygote.close()
            self.preload = ()
            return self._start()
        return zygote


class _Zygote:
    """One interpreter, with pipes for all pairs that it will fork: `channels` are those that no pair has yet."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="pyprod-zygote-", ignore_cleanup_errors=True)
        self._log = Path(self._scratch.name, "zygote.log")
        pipes = [[Pipe() for _ in SIDES] for _ in range(PAIRS)]
        self._status, theirs = Pipe()
        ends = [theirs, *(end for pair in pipes for _, end in pair)]
        self._process = launch("pyprod.gate.zygote", [], ends, environment, self._log)
        for end in ends:
            end.close()
        self.channels: list[Sequence[Connection]] = [[ours for ours, _ in pair] for pair in reversed(pipes)]

    @property
    def spent(self) -> bool:
        """Whether it has no pair left, or is gone."""
        return not self.channels or self._process.poll() is not None

    def ask_for_realtime(self) -> bool:
        """For its sides too, which inherit it: on a busy machine imports are then done in their time."""
        return _set_realtime(self._process.pid, 0)

    def ask(self, request: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """One request, one answer.

        Raises:
            PyprodError: it died, or took too long.
        """
        try:
            self._status.send_bytes(json.dumps(request).encode())
            if not self._status.poll(patience):
                raise PyprodError(f"importing torch took longer than {patience:g} s: raise --timeout")
            answer: dict[str, Any] = json.loads(self._status.recv_bytes())
        except (EOFError, OSError):
            words = self._log.read_text(errors="replace").strip().splitlines()
            raise PyprodError(f"the processes could not be started: {words[-1] if words else 'no message'}") from None
        return answer

    def fork(self, logs: Path, cpus: Sequence[int], pad_pages: int, patience: float) -> Mapping[str, Worker]:
        """The next pair."""
        pids = self.ask({"logs": str(logs), "pad": pad_pages}, patience)
        ends = _Ends(self._status)
        workers = {}
        for side, channel in zip(SIDES, self.channels.pop(), strict=True):
            workers[side] = Worker(_Forked(pids[side], side, ends), channel, logs / f"{side}.log", cpus)
        return workers

    def close(self) -> None:
        """End it, and the sides that it has forked: they die with their parent."""
        self._process.kill()
        self._process.wait()
        for channel in (self._status, *(channel for pair in self.channels for channel in pair)):
            channel.close()
        self._scratch.cleanup()


def _set_realtime(pid: int, flags: int) -> bool:
    """Whether the kernel grants it."""
    if not hasattr(os, "sched_setscheduler"):
        return False
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_FIFO | flags, os.sched_param(1))
        return True
    return False


@contextlib.contextmanager
def _own_realtime() -> Iterator[None]:
    """Within, this process has real-time priority where the kernel grants it; those that it starts have not."""
    granted = _set_realtime(0, getattr(os, "SCHED_RESET_ON_FORK", 0))
    try:
        yield
    finally:
        if granted:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


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
