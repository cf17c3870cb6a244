"""The parent's side: starts a worker process, asks it stage by stage, and turns its death or silence into a Failure."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import psutil

from pyprod.measure import memory
from pyprod.measure.subject import Observation
from pyprod.types import Failure

LOG_TAIL = 2000  # characters of a dead worker's output that are kept as its last words


class WorkerFailed(Exception):
    """A stage that a worker did not get through; the worker may be gone."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


#: glibc moves its thresholds with the sizes that were freed before, and so decides by a process's history whether a
#: tensor's memory is unmapped and faulted in again at every call: two processes of one model differed by up to 6%,
#: round after round. Fixed, all keep what they freed, as the allocators of servers do. Other libcs ignore this.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the largest that mallopt(3) takes
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def worker_environment(threads: int) -> dict[str, str]:
    """Variables that every worker starts with: runtimes and the allocator read them once, when they start.

    Args:
        threads: what every threading runtime is held to.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | ALLOCATOR | {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}


def launch(
    module: str, arguments: Sequence[str], channels: Sequence[Connection], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start ``python -m module FD... *arguments``, with a file descriptor for each of `channels`.

    Ctrl-C is the parent's to handle, and a signal meant for the process reaches its children: it has its own session.
    """
    descriptors = [channel.fileno() for channel in channels]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, descriptors), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            pass_fds=descriptors,
            start_new_session=True,
        )


class Process(Protocol):
    """What a worker must know of its process; `subprocess.Popen` is one."""

    pid: int

    def wait(self) -> int:
        """Wait for its end: the exit status, or minus the signal that killed it."""


class Worker:
    """A process that answers requests (`pyprod.measure.worker.serve`), such as a fresh one that holds one Subject.

    Args:
        process: leads a process group of its own.
        channel: our end of the pipe that it serves.
        log: file that takes all it prints.
        cpus: the CPUs that it may use.
    """

    def __init__(self, process: Process, channel: Connection, log: Path, cpus: Sequence[int]) -> None:
        self._process = process
        self._channel = channel
        self._log = log
        self._oom_kills = memory.oom_kills()
        self.pin(cpus)

    @classmethod
    def start(cls, factory: str, cpus: Sequence[int], environment: Mapping[str, str], log: Path) -> Worker:
        """Start a fresh process.

        Args:
            factory: ``module:function``; the function takes the payload of the "build" request and returns a Subject.
            environment: variables on top of this process's own.
        """
        ours, theirs = Pipe()
        with theirs:
            process = launch("pyprod.measure.worker", [factory], [theirs], environment, log)
        return cls(process, ours, log, cpus)

    def ask(self, stage: str, timeout: float, **arguments: Any) -> list[Observation]:
        """Have the worker do one stage.

        Args:
            timeout: seconds; a worker that has not answered by then is killed.

        Raises:
            WorkerFailed: the stage raised, the process died, or the time was up.
        """
        self.send(stage, **arguments)
        return self.receive(stage, timeout)

    def send(self, stage: str, **arguments: Any) -> None:
        """Ask without waiting for the answer, so that several workers can be busy at once."""
        with contextlib.suppress(OSError):  # it is dead: `receive` says of what
            self._channel.send_bytes(json.dumps({"stage": stage, "arguments": arguments}).encode())

    def receive(self, stage: str, timeout: float) -> list[Observation]:
        """The answer to what was sent; see `ask`."""
        try:
            if not self._channel.poll(timeout):
                self.close()
                raise WorkerFailed(Failure("timeout", stage, f"no answer within {timeout:g} s", self._last_words()))
            reply = json.loads(self._channel.recv_bytes())
        except (EOFError, OSError) as error:
            raise WorkerFailed(self._obituary(stage)) from error
        if "failure" in reply:
            raise WorkerFailed(Failure(stage=stage, **reply["failure"]))
        return [Observation(**o) for o in reply["observations"]]

    def pause(self) -> None:
        """Stop the process and its children, so that no spinning thread of theirs disturbs the one being timed."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def pin(self, cpus: Sequence[int]) -> None:
        """Move every thread of the process to `cpus`; threads it makes later inherit that. Linux only."""
        if not hasattr(os, "sched_setaffinity"):
            return
        with contextlib.suppress(psutil.Error, ProcessLookupError):  # it may be gone: the next request will say so
            for thread in psutil.Process(self._process.pid).threads():
                os.sched_setaffinity(thread.id, cpus)

    def peak(self) -> int:
        """The most bytes of memory that it has held; where the system does not say, what it holds now; 0 when it is
        gone."""
        with contextlib.suppress(OSError, ValueError):
            return memory.peak(Path(f"/proc/{self._process.pid}"))
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    def close(self) -> None:
        """Kill the process and its children; safe to call again."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._channel.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _obituary(self, stage: str) -> Failure:
        code = self._process.wait()
        if code == -signal.SIGKILL and memory.oom_kills() > self._oom_kills:
            return Failure("out_of_memory", stage, "killed by the kernel: out of memory", self._last_words())
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        return Failure("crash", stage, how, self._last_words())

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL:]
