"""The child's side: a process that holds one Subject and does what its parent asks, one request at a time.

`pyprod.measure.process.Worker` starts it as ``python -m pyprod.measure.worker FD FACTORY``. Requests and replies are
JSON over the inherited pipe FD; whatever the measured libraries print goes to the log file that the parent opened.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pyprod.measure import memory, sampling
from pyprod.measure.subject import Observation, Subject
from pyprod.types import Mismatch, Unavailable

PR_SET_PDEATHSIG = 1  # prctl(2)
CHECKOUT = Path(__file__).parents[2]


class Server:
    """Answers the parent's requests about one Subject."""

    def __init__(self, factory: Callable[[dict[str, Any]], Subject]) -> None:
        self.factory = factory
        self.subject: Subject
        self.peak_was_reset = False

    def build(self, payload: dict[str, Any]) -> list[Observation]:
        """Make the subject and build it."""
        self.subject = self.factory(payload)
        return self.subject.build()

    def check(self) -> list[Observation]:
        """Compare its output with a trusted one."""
        return self.subject.check()

    def score(self) -> list[Observation]:
        """Judge its output on real data."""
        return self.subject.score()

    def release(self) -> list[Observation]:
        """Give back what only the stages above needed."""
        self.subject.release()
        memory.trim()
        return []

    def warmup(self, max_ns: int) -> list[Observation]:
        """Call until steady; the peak of memory is counted from here on."""
        self.peak_was_reset = memory.reset_peak()
        done = sampling.warm_up(self.subject.call, max_ns)
        context = {"calls": done.calls, "steady": done.steady, "timer": sampling.TIMER}
        return [Observation("warmup_time", "s", [done.elapsed_ns / 1e9], context)]

    def time(self, max_count: int, max_ns: int, settle_ns: int = 0) -> list[Observation]:
        """One slice of a round: calls unrecorded, one at least (the caches were another's), then samples."""
        call = self.subject.call
        sampling.sample(call, max_count=1000, max_ns=settle_ns)
        start = time.perf_counter_ns()
        durations = sampling.sample(call, max_count, max_ns)
        elapsed = time.perf_counter_ns() - start
        throughput = len(durations) * self.subject.samples_per_call / elapsed * 1e9
        return [Observation("latency", "ns", durations), Observation("throughput", "samples/s", [throughput])]

    def memory(self) -> list[Observation]:
        """Peak memory since the warm-up began."""
        return memory.usage(self.peak_was_reset) + self.subject.memory()


def failure_of(error: BaseException) -> dict[str, str]:
    """Kind, one line and traceback of an exception, as in `pyprod.types.Failure`."""
    kind = "error"
    if isinstance(error, Unavailable):
        kind = "unavailable"
    elif isinstance(error, Mismatch):
        kind = "mismatch"
    elif isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate memory" in str(error):
        kind = "out_of_memory"  # torch's CPU allocator raises a plain RuntimeError: "can't allocate memory"
    text = " ".join(str(error).split())
    message = text if kind in ("unavailable", "mismatch") else f"{type(error).__name__}: {text}"
    return {"kind": kind, "message": message, "detail": without_places("".join(traceback.format_exception(error)))}


def without_places(text: str) -> str:
    """`text` with paths as they are below the checkout and below Python: records are read on other machines."""
    for folder in (str(CHECKOUT), sys.prefix, sys.base_prefix):
        text = text.replace(f"{folder}/", "")
    return text


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, even while it is stopped (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(fd: int, server: object) -> None:
    """Have `server` answer requests over the pipe `fd`, by its method of the stage's name, until the parent closes it.

    A method returns observations; what it raises becomes the reply.
    """
    die_with_parent()
    channel = Connection(fd)
    while True:
        try:
            request = json.loads(channel.recv_bytes())
        except EOFError:
            return
        reply: dict[str, Any]
        try:
            observations = getattr(server, request["stage"])(**request["arguments"])
            reply = {"observations": [o._asdict() for o in observations]}
        except BaseException as error:  # SystemExit and panics of the measured library too: the parent decides
            reply = {"failure": failure_of(error)}
        channel.send_bytes(json.dumps(reply).encode())


def main(fd: int, factory: str) -> None:
    """Serve the Subject that `factory` makes."""
    module, _, function = factory.partition(":")
    serve(fd, Server(lambda payload: getattr(importlib.import_module(module), function)(payload)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
