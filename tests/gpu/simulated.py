"""A GPU of pencil and paper: streams, events, graphs and NVML over one clock that the work itself moves on."""

# ruff: noqa: N802  # the names are NVML's and torch's

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any


class Cuda:
    """Stands for ``torch.cuda``.

    Attributes:
        now_ms: the device's clock.
        waiting_s: what other streams still have to do; only `synchronize` waits for it.
        capturable: whether work may be captured.
    """

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.waiting_s = 0.0
        self.capturable = True
        self.flushes = 0
        self._capture: list[Callable[[], None]] | None = None
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = cuda.now_ms

            def elapsed_time(self, other: Any) -> float:
                return float(other.at - self.at)

        class Graph:
            def replay(self) -> None:
                for step in self.steps:
                    step()

        self.Event, self.CUDAGraph = Event, Graph

    def work(self, ms: float) -> None:
        """A kernel on the current stream."""
        if self._capture is None:
            self.now_ms += ms
        elif self.capturable:
            self._capture.append(lambda: self.work(ms))
        else:
            raise RuntimeError("operation not permitted when stream is capturing")

    def launch(self, ms: float) -> None:
        """What the host takes to launch: a graph does without."""
        if self._capture is None:
            self.now_ms += ms

    def Stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)

    current_stream = Stream

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        self._capture = []
        try:
            yield
            graph.steps = self._capture
        finally:
            self._capture = None

    def synchronize(self) -> None:
        if self.waiting_s:
            time.sleep(self.waiting_s)

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, device: int) -> Any:
        return SimpleNamespace(L2_cache_size=1000)

    def is_available(self) -> bool:
        return True

    def mem_get_info(self) -> tuple[int, int]:
        return 1 << 30, 1 << 30

    def empty_cache(self) -> None:
        """Nothing is cached."""

    reset_peak_memory_stats = empty_cache

    def max_memory_allocated(self) -> int:
        return 12345


class Nvml:
    """Stands for ``pynvml``. Each attribute of `state` is what the function of that name answers, or an error."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        """As NVML's own."""

    def __init__(self, **state: Any) -> None:
        self.state = {"sm": 1980, "mem": 3201, "reasons": 0, "power": 300_000, "temperature": 40, "energy": 0} | state

    def _tell(self, key: str) -> Any:
        value = self.state.get(key)
        if value is None:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlDeviceGetClockInfo(self, _: Any, which: int) -> Any:
        return self._tell("sm" if which == self.NVML_CLOCK_SM else "mem")

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: Any) -> Any:
        return self._tell("reasons")

    def nvmlDeviceGetPowerUsage(self, _: Any) -> Any:
        return self._tell("power")

    def nvmlDeviceGetTotalEnergyConsumption(self, _: Any) -> Any:
        return self._tell("energy")

    def nvmlDeviceGetTemperature(self, _: Any, which: int) -> Any:
        return self._tell("temperature")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        if uuid not in self.state["uuids"]:
            raise self.NVMLError("Not Found")
        return self.state["uuids"][uuid]

    def nvmlDeviceGetMigMode(self, _: Any) -> Any:
        return self._tell("mig")

    def nvmlDeviceGetComputeRunningProcesses(self, _: Any) -> Any:
        return [SimpleNamespace(pid=pid) for pid in self._tell("running")]
