"""How a side times a call: on the CPU by the sampling loop, on a GPU by its events."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch

from pyprod.gate.place import Allocations, DeviceMemory, Memory
from pyprod.gpu import present, telemetry
from pyprod.gpu.timing import Stopwatch
from pyprod.measure import energy, memory, sampling
from pyprod.measure.subject import Observation
from pyprod.types import PyprodError, Unavailable

#: A process times each benchmark for some 20 ms: windows must be short.
WARM_WINDOW_NS = 500_000
#: The longest warm-up.
WARM_NS = 200_000_000
#: A slice may take so many times its time, to make its least number of calls.
PATIENCE = 5
#: Weights and activations of some MB are back in their cache after so many calls.
SETTLE_CALLS = 4
#: Of each side on a GPU, for the tensors of one benchmark.
DEVICE_MEMORY = 4 << 30


class Slice(NamedTuple):
    """What a slice asks for: see `pyprod.gate.settings.Settings`."""

    settle_ns: int
    min_count: int
    max_count: int
    max_ns: int


class Instrument(Protocol):
    """Times one call after another.

    Attributes:
        memory: where a benchmark's tensors are placed.
    """

    memory: Memory | DeviceMemory

    def forget(self) -> None:
        """Let go of the last call."""

    def reset(self, seed: int) -> None:
        """Draw new addresses for what the next benchmark allocates."""

    def entered(self, window: int = 0) -> contextlib.AbstractContextManager[None]:
        """While a benchmark is made ready or called: what it allocates is placed."""

    def prepare(self, call: Callable[[], object]) -> Observation:
        """Warm a call up; it is the one that is timed from here on. "extent" of the context: bytes allocated."""

    def sample(self, asked: Slice) -> tuple[list[int], dict[str, Any]]:
        """Durations in ns, and what was going on meanwhile."""

    def result(self) -> object:
        """What the call returns, made as it is timed."""

    def peak(self) -> list[Observation]:
        """Peak memory since `prepare`; empty where the system does not say."""

    def energy(self, seconds: float) -> list[Observation]:
        """Joules per call, calling for so long; empty where nothing counts them."""


class Cpu:
    """The calling thread's own clock."""

    def __init__(self, tensors: Memory, allocations: Memory) -> None:
        self.memory: Memory | DeviceMemory = tensors
        self._allocations = Allocations(allocations)
        self._call: Callable[[], object] = _nothing
        self._peak_was_reset = False

    def forget(self) -> None:
        self._call = _nothing

    def reset(self, seed: int) -> None:
        memory.trim()
        self._allocations.reset(seed)

    def entered(self, window: int = 0) -> contextlib.AbstractContextManager[None]:
        return self._allocations.entered(window)

    def prepare(self, call: Callable[[], object]) -> Observation:
        self._call = call
        memory.trim()
        self._peak_was_reset = memory.reset_peak()
        done = sampling.warm_up(call, WARM_NS, WARM_WINDOW_NS)
        context = {"calls": done.calls, "steady": done.steady, "extent": self._allocations.extent}
        return Observation("warmup_time", "s", [done.elapsed_ns / 1e9], context)

    def sample(self, asked: Slice) -> tuple[list[int], dict[str, Any]]:
        """Calls unrecorded first (the caches were the other side's), `SETTLE_CALLS` at least; then samples. For the
        least number of either, it may take `PATIENCE` times as long.
        """
        self._calls(SETTLE_CALLS, 1000, asked.settle_ns)
        before, cpu = resource.getrusage(resource.RUSAGE_THREAD), time.process_time_ns()
        start = time.perf_counter_ns()
        durations = self._calls(asked.min_count, asked.max_count, asked.max_ns)
        elapsed, cpu = time.perf_counter_ns() - start, time.process_time_ns() - cpu
        preempted = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - before.ru_nivcsw
        return durations, {"preempted": preempted, "cpu_share": round(cpu / elapsed, 3)}

    def _calls(self, min_count: int, max_count: int, max_ns: int) -> list[int]:
        durations = sampling.sample(self._call, max_count, max_ns)
        if len(durations) < min_count:
            durations += sampling.sample(self._call, min_count - len(durations), (PATIENCE - 1) * max_ns)
        return durations

    def result(self) -> object:
        return self._call()

    def peak(self) -> list[Observation]:
        return [Observation("peak_rss", "bytes", [memory.peak()])] if self._peak_was_reset else []

    def energy(self, seconds: float) -> list[Observation]:
        meter = energy.rapl()
        if meter is None:
            return []
        calls = len(sampling.sample(self._call, 10**9, int(seconds * 1e9)))
        return [Observation("energy", "J", [meter.joules() / calls])]


class Cuda:
    """The device's clock, and NVML beside it.

    Args:
        cold: overwrite the second level cache before each sample.

    Raises:
        Unavailable: PyTorch can't use a GPU here.
    """

    def __init__(self, cold: bool) -> None:
        if not torch.cuda.is_available():
            raise Unavailable("PyTorch can't use a GPU here", "see python -c 'import torch; torch.cuda.init()'")
        self.memory: Memory | DeviceMemory = DeviceMemory(min(DEVICE_MEMORY, torch.cuda.mem_get_info()[0] // 4), "cuda")
        self._cold = cold
        self._gpu = telemetry.gpu(present.uuid())
        self._watch: Any = None  # a Stopwatch once a call is prepared

    def forget(self) -> None:
        self._watch = None

    def reset(self, seed: int) -> None:
        torch.cuda.empty_cache()

    @contextlib.contextmanager
    def entered(self, window: int = 0) -> Iterator[None]:
        yield

    def prepare(self, call: Callable[[], object]) -> Observation:
        start = time.perf_counter()
        torch.cuda.reset_peak_memory_stats()
        self._watch = Stopwatch(call, self._cold)
        warm = sampling.warm_up(lambda: self._watch.sample(1, 1), WARM_NS, WARM_WINDOW_NS)
        biases = self._gpu.biases([os.getpid(), os.getppid()]) if self._gpu else ["NVML can't say what the GPU did"]
        context = {"calls": warm.calls, "steady": warm.steady, "extent": 0, "graph": self._watch.graph}
        return Observation("warmup_time", "s", [time.perf_counter() - start], context | {"biases": biases})

    def sample(self, asked: Slice) -> tuple[list[int], dict[str, Any]]:
        """`SETTLE_CALLS` unrecorded calls, which wake a GPU that idled while the other side ran; then samples."""
        self._watch.sample(SETTLE_CALLS, asked.settle_ns)
        if self._gpu is None:
            return self._samples(asked), {}
        with telemetry.watched(self._gpu) as watch:
            durations = self._samples(asked)
        return durations, watch.summary()

    def _samples(self, asked: Slice) -> list[int]:
        durations: list[int] = self._watch.sample(asked.max_count, asked.max_ns)
        if len(durations) < asked.min_count:
            durations += self._watch.sample(asked.min_count - len(durations), (PATIENCE - 1) * asked.max_ns)
        return durations

    def result(self) -> object:
        return self._watch.result()

    def peak(self) -> list[Observation]:
        return [Observation("gpu_memory", "bytes", [float(torch.cuda.max_memory_allocated())])]

    def energy(self, seconds: float) -> list[Observation]:
        if self._gpu is None or self._gpu.read().energy_j is None:
            return []
        with telemetry.watched(self._gpu) as watch:
            calls = len(self._watch.sample(10**9, int(seconds * 1e9)))
        return [Observation("energy", "J", [watch.summary()["energy_j"] / calls])]


def _nothing() -> None:
    """The call while there is none."""


def instrument(device: str, cold: bool, tensors: Memory, allocations: Memory) -> Instrument:
    """The one for "cpu" or "cuda".

    Raises:
        Unavailable: there is no such device here.
        PyprodError: it is neither.
    """
    if device == "cpu":
        return Cpu(tensors, allocations)
    if device == "cuda":
        return Cuda(cold)
    raise PyprodError(f"no device {device!r}: use cpu or cuda")
