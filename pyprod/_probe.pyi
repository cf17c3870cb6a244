from collections.abc import Callable
from typing import Final

CLOCK: Final[str]
"""Name of the clock that `sample` and `now_ns` read."""

def now_ns() -> int:
    """The sampling clock, ns; only differences mean something."""

def clock_overhead_ns() -> int:
    """Median ns between two reads of the clock with nothing between: part of every sample, caused by no call."""

def cpu_features() -> list[str]:
    """Instruction set extensions that this CPU has and the operating system supports: "avx2", "avx512_vnni", ..."""

def sample(call: Callable[[], object], max_count: int, max_ns: int = 0) -> bytes:
    """Call ``call()`` in a C++ loop and time each call.

    The result of a call is freed after its end is stamped. Ctrl-C works between calls. At least one call is made.

    Args:
        call: takes no argument; what it raises is raised here, and the samples are lost.
        max_count: calls to make at most, >= 1.
        max_ns: start no further call once so many ns have passed since the first; 0 for no limit.

    Returns:
        Durations in call order, int64 ns, native byte order: ``numpy.frombuffer(b, numpy.int64)`` or
        ``memoryview(b).cast("q")``.

    Raises:
        ValueError: max_count < 1 or max_ns < 0.
    """

def arithmetics() -> list[str]:
    """Loops for `arithmetic_rates` that this CPU can run: "clock" (one dependent addition a cycle), "int8.amx" ..."""

def memory_patterns() -> list[str]:
    """Ways through memory for `memory_rates`: "read", "copy_stream" (stores past the caches), ... or none."""

def arithmetic_rates(name: str, cpus: list[int], repetitions: int, min_ns: int) -> list[float]:
    """Operations per second of all CPUs together, one value a repetition.

    Args:
        name: of `arithmetics`.
        cpus: a thread is pinned to each.
        repetitions: timed runs, >= 1, all threads starting each together.
        min_ns: the least that one run takes, found by growing it.

    Raises:
        ValueError: an argument is out of range, or this CPU can't run that loop.
        RuntimeError: a thread could not be pinned.
    """

def memory_rates(pattern: str, bytes: int, huge: bool, cpus: list[int], repetitions: int, min_ns: int) -> list[float]:
    """Bytes per second of all CPUs together, read plus written, one value a repetition.

    Args:
        pattern: of `memory_patterns`.
        bytes: working set of all CPUs together, of a copy source plus target; each goes through a share of its own.
        huge: ask for huge pages (which the kernel may refuse), or keep to plain ones.
        cpus, repetitions, min_ns: see `arithmetic_rates`.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: a thread could not be pinned.
    """

def parallel_region_seconds(address: int, threads: int, repetitions: int) -> list[float]:
    """Seconds that an empty parallel region takes, one value a repetition, each of 200 regions.

    Args:
        address: of ``torch_parallel_for`` in libtorch_cpu.
        threads: items in the region, one a thread.
        repetitions: values wanted, >= 1.
    """

def ladder_rungs() -> list[tuple[str, bool]]:
    """Rungs of the ladder that this CPU can run, from the bottom up, and whether each takes packed weights."""

def ladder_product(name: str, a: int, w: int, m: int, n: int, k: int, out: int) -> None:
    """The int8 product ``out = a @ w.T`` as it was before a step that made it fast: one rung of the ladder.

    Arrays are dense and given by address; nothing checks them.

    Args:
        name: of `ladder_rungs`.
        a: int8 ``[m, k]``.
        w: int8 ``[n, k]``, or, for a rung that takes packed weights, ``pyprod.kernels.PackedWeight.data``.
        out: int32 ``[m, n]``.

    Raises:
        ValueError: this CPU has no such rung.
    """

def under_valgrind() -> bool:
    """Whether valgrind runs this process."""

def start_counting() -> None:
    """Have callgrind (``--instr-atstart=no``) count instructions from here; nothing without callgrind."""

def stop_counting(name: str) -> None:
    """Have callgrind write what it counted, under this name, to a file of its own, and stop; nothing without it."""

class Counters:
    """Cycles and instructions that the calling thread retires in user space (perf_event_open).

    Raises:
        OSError: the kernel forbids it, this machine has no counters, or others use them; the message says which.
    """

    def __init__(self) -> None: ...
    def start(self) -> None:
        """Reset to zero and count."""

    def stop(self) -> tuple[int, int]:
        """Stop counting; (cycles, instructions) since `start`."""

    def close(self) -> None:
        """Give the counters back; further calls raise OSError."""
