"""Memory of this process and of the machine, as Linux accounts for it. Elsewhere: what psutil can tell."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

import psutil

from pyprod.measure.subject import Observation

PROC = Path("/proc/self")
CGROUP = Path("/sys/fs/cgroup")


def trim() -> None:
    """Collect garbage and hand freed pages back to the kernel, so that they don't count as resident (glibc only)."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> bool:
    """Forget the peak of the resident set so far (Linux >= 4.0), so that `usage` reports the peak from here on.

    Returns:
        False where the kernel does not allow it: the peak then includes whatever came before, such as the build.
    """
    try:
        (PROC / "clear_refs").write_text("5")  # proc(5): "reset the peak resident set size"
    except OSError:
        return False
    return True


def peak(process: Path = PROC) -> int:
    """Bytes of the peak resident set since `reset_peak`.

    Raises:
        OSError: this system does not say, or there is no such process.
    """
    return _kilobytes(process / "status", "VmHWM") * 1024


def usage(peak_was_reset: bool) -> list[Observation]:
    """Peak resident set since `reset_peak`, and proportional set size now (shared pages split among sharers)."""
    context = {} if peak_was_reset else {"includes": "build"}
    try:
        highest = peak()
        pss = _kilobytes(PROC / "smaps_rollup", "Pss") * 1024
    except (OSError, ValueError):
        return [Observation("peak_rss", "bytes", [psutil.Process().memory_info().rss], {"includes": "current only"})]
    return [Observation("peak_rss", "bytes", [highest], context), Observation("pss", "bytes", [pss])]


def available() -> int:
    """Bytes that new processes may take: what the machine has free, or less where a cgroup limits us."""
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return int(free)
    return min(int(free), limit - used)


def oom_kills() -> int:
    """How many processes the kernel has killed for memory in our cgroup; 0 where it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", (CGROUP / "memory.events").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def _kilobytes(path: Path, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"no {key} in {path}")
    return int(found.group(1))
