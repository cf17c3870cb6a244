"""One interpreter from which both sides of a pair are forked: they share its addresses, and each pair has new ones.

Address space randomization moves every library from process to process, and with them what collides in caches and
branch predictors: two fresh processes of one tree differed by 6% in 50 us of Python, steadily from their first call to
their last. Forked from one parent that has imported torch, both sides have it at the same place.

Run by `pyprod.gate.pairs` as ``python -m pyprod.gate.zygote FD_BASE FD_HEAD FD_STATUS LOG_FOLDER``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from pyprod.gate import child
from pyprod.gate.place import Memory
from pyprod.gate.sides import SIDES
from pyprod.measure.worker import die_with_parent, serve

#: Bytes for the tensors of one benchmark, and as many for what its calls allocate: address space, until it is touched.
MEMORY = 4 << 30


def main(channels: list[int], status: Connection, logs: Path) -> None:
    """Fork the sides, tell their process ids, then how each of them ends."""
    die_with_parent()
    memories = Memory(MEMORY), Memory(MEMORY)
    gc.collect()
    gc.freeze()  # a collection in a side would otherwise write to, and so copy, every page it shares
    sides: dict[int, str] = {}
    for side, channel in zip(SIDES, channels, strict=True):
        pid = os.fork()
        if not pid:
            _become(
                child.Child(side, *memories),
                channel,
                [fd for fd in (*channels, status.fileno()) if fd != channel],
                logs / f"{side}.log",
            )
        sides[pid] = side
    for channel in channels:
        os.close(channel)
    status.send_bytes(json.dumps({side: pid for pid, side in sides.items()}).encode())
    while sides:
        pid, how = os.wait()
        status.send_bytes(json.dumps({sides.pop(pid): os.waitstatus_to_exitcode(how)}).encode())


def _become(side: child.Child, channel: int, others: list[int], log_file: Path) -> None:
    """Be that side until its parent closes the pipe."""
    os.setpgid(0, 0)
    for descriptor in others:
        os.close(descriptor)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        serve(channel, side)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main([int(sys.argv[1]), int(sys.argv[2])], Connection(int(sys.argv[3])), Path(sys.argv[4]))
