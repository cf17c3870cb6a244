"""Other work on the machine: processes that compute, stream memory and sleep, as neighbors do. Run as a module."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def noise(processes: int) -> Iterator[None]:
    """So many of them while the context lasts, each seeded anew."""
    command = [sys.executable, "-m", "tools.gate_study.noise"]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Until killed, or the parent is gone: phases of 10 to 500 ms, each of one kind."""
    rng, parent = random.Random(), os.getppid()
    small, large = np.random.rand(200, 200).astype(np.float32), np.zeros(8 << 20, dtype=np.float64)
    while os.getppid() == parent:
        end = time.monotonic() + rng.uniform(0.01, 0.5)
        kind = rng.choice(("compute", "stream", "python", "sleep"))
        while time.monotonic() < end:
            if kind == "compute":
                small @ small
            elif kind == "stream":
                large += 1
            elif kind == "python":
                sum(range(1000))
            else:
                time.sleep(0.005)


if __name__ == "__main__":
    main()
