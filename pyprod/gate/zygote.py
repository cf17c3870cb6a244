"""One interpreter from which both sides of a pair are forked: they share its addresses.

Address space randomization moves every library from process to process, and with them what collides in caches and
branch predictors: two fresh processes of one tree differed by 6% in 50 us of Python, steadily from their first call to
their last. Forked from one parent that has imported torch, both sides have it at the same place.

Importing is most of what a pair takes, so a zygote forks several, one after the other. What a revision loads, its
extension above all, lies elsewhere in each pair; a new zygote has torch elsewhere too.

Run by `pyprod.gate.nursery` as ``python -m pyprod.gate.zygote FD_STATUS FD FD ...``, two for each pair to come.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from pyprod.gate import child
from pyprod.gate.place import PAGE, Memory
from pyprod.gate.sides import SIDES
from pyprod.measure.worker import die_with_parent, serve

#: Bytes for the tensors of one benchmark, and as many for what its calls allocate: address space, until it is touched.
MEMORY = 4 << 30


def main(status: Connection, channels: list[int]) -> None:
    """Import, then fork a pair for each request; tell the process ids, then how each of both ends."""
    die_with_parent()
    threads = psutil.Process().num_threads()
    preload(_receive(status)["preload"])
    _send(status, {"started_threads": psutil.Process().num_threads() - threads})
    with contextlib.suppress(EOFError):
        while channels:
            request = _receive(status)
            mine, channels = channels[: len(SIDES)], channels[len(SIDES) :]
            sides = fork(mine, [*mine, *channels, status.fileno()], Path(request["logs"]), request["pad"])
            for channel in mine:
                os.close(channel)
            _send(status, {side: pid for pid, side in sides.items()})
            while sides:
                pid, how = os.wait()
                _send(status, {sides.pop(pid): os.waitstatus_to_exitcode(how)})
        _receive(status)  # until the parent has no more to ask


def preload(names: Sequence[str]) -> None:
    """Import these modules; what can't be imported by itself is left to who needs it."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a side would otherwise write to, and so copy, every page it shares


def fork(channels: Sequence[int], inherited: Sequence[int], logs: Path, pad: int) -> dict[int, str]:
    """Both sides, by process id."""
    memories = Memory(MEMORY), Memory(MEMORY)
    sides: dict[int, str] = {}
    for side, channel in zip(SIDES, channels, strict=True):
        pid = os.fork()
        if not pid:
            others = [fd for fd in inherited if fd != channel]
            _become(child.Child(side, *memories), channel, others, logs / f"{side}.log", pad)
        sides[pid] = side
    for memory in memories:
        memory.close()
    return sides


def _become(side: child.Child, channel: int, others: Sequence[int], log_file: Path, pad: int) -> None:
    """Be that side until its parent closes the pipe."""
    os.setpgid(0, 0)
    for descriptor in others:
        os.close(descriptor)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    moved = mmap.mmap(-1, pad * PAGE, prot=0)  # never touched: libraries that are loaded from here on lie below it
    try:
        serve(channel, side)
    finally:
        moved.close()
        os._exit(0)


def _send(status: Connection, message: dict[str, Any]) -> None:
    status.send_bytes(json.dumps(message).encode())


def _receive(status: Connection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(status.recv_bytes())
    return message


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])), [int(fd) for fd in sys.argv[2:]])
