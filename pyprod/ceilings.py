"""What this machine can do at most, measured: arithmetic, bandwidth, overheads. What each figure is: docs/ceilings.md.

Rows hold raw repetitions; everything else here is derived from them.
"""

from __future__ import annotations

import ctypes
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat, starmap
from pathlib import Path
from typing import Any

from pyprod import _probe, environment
from pyprod.progress import Bar

#: Bytes gone through: first-level caches, second-level caches, third-level caches by and by, memory.
WORKING_SETS = (32 << 10, 512 << 10, 2 << 20, 8 << 20, 16 << 20, 45 << 20, 512 << 20)
#: However many threads share a working set, none gets less: loops would be shorter than what starts them.
LEAST_SHARE = 16 << 10
REPETITIONS = 7
#: Of one repetition; longer than a scheduler's tick.
LEAST_NS = 5_000_000
#: Calls of one repetition of an overhead.
CALLS = 10_000

#: What may stand for a pattern in a roofline: the same bytes, gone through otherwise.
FORMS = {"read": ("read", "read_prefetch"), "copy": ("copy", "copy_stream"), "fill": ("fill", "fill_stream")}


def ceilings(
    progress: Bar | None = None, repetitions: int = REPETITIONS, working_sets: Sequence[int] = WORKING_SETS
) -> dict[str, Any]:
    """Measure everything, for one thread and for all CPUs of this process; takes about 15 s.

    Starts torch's threads. An idle machine is the caller's business: each row's spread shows how idle it was.

    Args:
        progress: is told how many steps there are, and of each that is done.
        repetitions: samples a row.
        working_sets: bytes that bandwidth is measured through.

    Returns:
        ``{"cpus": [...], "huge_pages": ..., "rows": [...]}``, JSON values. A row has "kind" ("clock", "arithmetic",
        "memory" or "overhead"), "name", "threads", "unit" ("Hz", "op/s", "B/s" or "s"), "samples", and for memory
        "bytes" (all threads' working sets together, source and target) and "pages" ("huge" or "4K").
    """
    cpus = environment.cpus(len(environment.allowed_cpus()))
    counts = sorted({1, len(cpus)})
    steps = [step for threads in counts for step in _steps(cpus[:threads], repetitions, working_sets)]
    if progress is not None:
        progress.planned(len(steps))
    rows = []
    for about, measure in steps:
        rows.append({**about, "samples": measure()})
        if progress is not None:
            progress.step(f"{about['name']}, {about['threads']} threads")
    return {"cpus": cpus, "huge_pages": environment.huge_pages(), "rows": rows}


def median(row: Mapping[str, Any]) -> float:
    """The middle sample of a row."""
    return float(statistics.median(row["samples"]))


def peak(found: Mapping[str, Any], arithmetic: str, threads: int = 1) -> float:
    """Operations per second of `arithmetic`: a loop's name ("int8.avx512_vnni"), or "int8": the fastest of its loops.

    Raises:
        LookupError: nothing measured has that name and number of threads.
    """
    rows = _rows(found, "arithmetic", threads)
    fits = [median(row) for row in rows if arithmetic in (row["name"], row["name"].partition(".")[0])]
    if not fits:
        raise LookupError(f"{arithmetic} is none of {', '.join(row['name'] for row in rows)}")
    return max(fits)


def bandwidth(found: Mapping[str, Any], working_set: int, threads: int = 1, pattern: str = "read") -> float:
    """Bytes per second through `working_set` bytes: the best of all pages and forms of the pattern.

    Between two measured sizes, interpolated over the logarithm of the size; beyond them, that of the nearest.

    Args:
        found: of `ceilings`.
        working_set: bytes that are gone through again and again, of a copy source and target together.
        threads: 1, or as many as this process has CPUs; they share the working set.
        pattern: "read", "copy" (bytes read plus bytes written) or "fill".

    Raises:
        LookupError: nothing measured has that pattern and number of threads.
    """
    best: dict[int, float] = {}
    for row in _rows(found, "memory", threads):
        if row["name"] in FORMS.get(pattern, ()):
            best[row["bytes"]] = max(median(row), best.get(row["bytes"], 0.0))
    if not best:
        raise LookupError(f"no bandwidth of {pattern!r} was measured; there are {', '.join(FORMS)}")
    below = max((size for size in best if size <= working_set), default=min(best))
    above = min((size for size in best if size >= working_set), default=max(best))
    if below == above:
        return best[below]
    share = math.log(working_set / below) / math.log(above / below)
    return best[below] + share * (best[above] - best[below])


def roofline_seconds(
    found: Mapping[str, Any],
    ops: float,
    bytes: float,
    working_set: int | None = None,
    arithmetic: str = "int8",
    threads: int = 1,
    pattern: str = "read",
) -> float:
    """The least time that a call can take here: the longer of its arithmetic and its traffic, perfectly overlapped.

    Williams, Waterman, Patterson: Roofline, CACM 52 (2009).

    Args:
        found: of `ceilings`.
        ops: multiplications plus additions, 0 for none.
        bytes: read plus written.
        working_set: size of the memory that holds them, which decides the cache they come from; None: `bytes`.
        arithmetic: see `peak`.
        threads: see `bandwidth`.
        pattern: see `bandwidth`.

    Raises:
        LookupError: what is asked for was not measured.
    """
    computing = ops / peak(found, arithmetic, threads) if ops else 0.0
    size = int(bytes if working_set is None else working_set)
    moving = bytes / bandwidth(found, size, threads, pattern) if bytes else 0.0
    return max(computing, moving)


def _rows(found: Mapping[str, Any], kind: str, threads: int) -> list[Mapping[str, Any]]:
    rows = [row for row in found["rows"] if row["kind"] == kind and row["threads"] == threads]
    if not rows:
        measured = sorted({row["threads"] for row in found["rows"]})
        raise LookupError(f"nothing of kind {kind} was measured with {threads} threads, only with {measured}")
    return rows


def _steps(
    cpus: list[int], repetitions: int, working_sets: Sequence[int]
) -> Iterator[tuple[dict[str, Any], Callable[[], list[float]]]]:
    """What each row says of itself, and what measures it."""
    threads = len(cpus)
    for name in _probe.arithmetics():
        rates = partial(_probe.arithmetic_rates, name, cpus, repetitions, LEAST_NS)
        if name == "clock":
            yield {"kind": name, "name": name, "threads": threads, "unit": "Hz"}, partial(_each, rates, threads)
        else:
            yield {"kind": "arithmetic", "name": name, "threads": threads, "unit": "op/s"}, rates
    for pattern in _probe.memory_patterns():
        for huge in (True, False) if pattern == "read" else (True,):
            for size in (max(size, threads * LEAST_SHARE) for size in working_sets):
                about = {"kind": "memory", "name": pattern, "threads": threads, "unit": "B/s"}
                about |= {"bytes": size, "pages": "huge" if huge else "4K"}
                yield about, partial(_probe.memory_rates, pattern, size, huge, cpus, repetitions, LEAST_NS)
    overheads = {"parallel_region": partial(_parallel_region, threads, repetitions)}
    if threads == 1:
        overheads |= {"python_call": partial(_call, _nothing, (), repetitions), "torch_call": partial(_op, repetitions)}
    for name, measure in overheads.items():
        yield {"kind": "overhead", "name": name, "threads": threads, "unit": "s"}, measure


def _each(rates: Callable[[], list[float]], threads: int) -> list[float]:
    return [rate / threads for rate in rates()]


def _nothing() -> None:
    pass


def _call(function: Callable[..., object], arguments: tuple[object, ...], repetitions: int) -> list[float]:
    """Seconds of one call from a loop in C (`itertools`, `deque`), which takes some 15 ns of its own."""
    samples = []
    for _ in range(repetitions):
        start = _probe.now_ns()
        deque(starmap(function, repeat(arguments, CALLS)), maxlen=0)
        samples.append((_probe.now_ns() - start) * 1e-9 / CALLS)
    return samples


def _op(repetitions: int) -> list[float]:
    """Seconds of the least that an op of torch can be: one float negated in place, through the dispatcher."""
    import torch

    with torch.inference_mode():
        return _call(torch.ops.aten.neg_.default, (torch.ones(1),), repetitions)


def _parallel_region(threads: int, repetitions: int) -> list[float]:
    """Seconds to start and end a region of torch's own threads, by the function that our ops call."""
    import torch

    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
    address = ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value
    assert address is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _probe.parallel_region_seconds(address, threads, repetitions)
    finally:
        torch.set_num_threads(before)


def to_text(found: Mapping[str, Any]) -> str:
    """Tables for a terminal, medians."""
    counts = sorted({row["threads"] for row in found["rows"]})
    lines = [f"{'threads':24}" + "".join(f"{count:>13}" for count in counts)]
    scale = {"Hz": (1e-9, "GHz", 2), "op/s": (1e-9, "GOP/s", 0), "s": (1e9, "ns", 0)}
    for name, unit in dict.fromkeys((row["name"], row["unit"]) for row in found["rows"] if row["kind"] != "memory"):
        factor, shown, digits = scale[unit]
        cells = {row["threads"]: f"{median(row) * factor:,.{digits}f}" for row in found["rows"] if row["name"] == name}
        lines.append(f"{name:24}" + "".join(f"{cells.get(count, ''):>13}" for count in counts) + f"  {shown}")
    for count in counts:
        rows = [row for row in found["rows"] if row["kind"] == "memory" and row["threads"] == count]
        sizes = sorted({row["bytes"] for row in rows})
        heads = (f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB" for size in sizes)
        lines += ["", f"{f'GB/s, threads: {count}':27}" + "".join(f"{head:>9}" for head in heads)]
        for name, pages in dict.fromkeys((row["name"], row["pages"]) for row in rows):
            rates = {row["bytes"]: median(row) for row in rows if (row["name"], row["pages"]) == (name, pages)}
            lines.append(f"{f'{name}, {pages} pages':27}" + "".join(f"{rates[size] * 1e-9:9.1f}" for size in sizes))
    return "\n".join(lines)
