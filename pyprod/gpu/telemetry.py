"""What a GPU did while something was timed: clocks, power, temperature, energy, and what held it back. By NVML.

Readings are taken in a thread of their own, so that a clock that drops between two ends of a sample is seen. NVML is
handed in: tests simulate it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pyprod import environment

#: Bits of NVML's clocks event reasons (nvml.h, formerly "throttle reasons") under which a GPU is slower than it could
#: be. The others say that it idles, or that somebody chose its clocks.
THROTTLES: Mapping[str, int] = {
    "power cap": 0x4,
    "hardware slowdown": 0x8,
    "sync boost": 0x10,
    "thermal (software)": 0x20,
    "thermal (hardware)": 0x40,
    "power brake": 0x80,
}
#: Seconds between readings: one takes about a millisecond of the driver's time.
INTERVAL = 0.005


class Reading(NamedTuple):
    """One moment; None for what this GPU or driver does not tell.

    Attributes:
        sm_mhz, memory_mhz: clocks.
        power_w: drawn, averaged by the driver over its own interval.
        temperature_c: of the GPU.
        throttled: which of `THROTTLES` hold now.
        energy_j: since the driver was loaded.
    """

    sm_mhz: int | None
    memory_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    throttled: tuple[str, ...]
    energy_j: float | None


class Gpu:
    """One device as NVML sees it.

    Args:
        nvml: the module ``pynvml``, initialized, or what stands for it.
        handle: NVML's handle of the device.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read(self) -> Reading:
        """All of it now."""
        nvml = self._nvml
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons") or 0
        power, energy = self._ask("nvmlDeviceGetPowerUsage"), self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return Reading(
            self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            None if power is None else power / 1000,
            self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            tuple(name for name, bit in THROTTLES.items() if reasons & bit),
            None if energy is None else energy / 1000,
        )

    def biases(self, own: Sequence[int]) -> list[str]:
        """What makes its times worth less, a line each.

        Args:
            own: processes that may use it.
        """
        found = []
        if (self._ask("nvmlDeviceGetMigMode") or (0, 0))[0]:
            found.append("MIG: a slice of a GPU that others may load")
        running = self._ask("nvmlDeviceGetComputeRunningProcesses") or ()
        if others := [p.pid for p in running if p.pid not in own]:
            found.append(f"shared: {len(others)} other processes use this GPU")
        return found

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except self._nvml.NVMLError:  # not supported on this device, or not permitted
            return None


class Watch:
    """The readings of a while: see `watched`."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def summary(self) -> dict[str, Any]:
        """JSON values: the range of each number, everything that throttled at any moment, joules spent."""
        found: dict[str, Any] = {}
        for name in ("sm_mhz", "memory_mhz", "power_w", "temperature_c"):
            if values := [v for r in self.readings if (v := getattr(r, name)) is not None]:
                found[name] = [min(values), max(values)]
        found["throttled"] = sorted({reason for r in self.readings for reason in r.throttled})
        joules = [r.energy_j for r in self.readings if r.energy_j is not None]
        if len(joules) >= 2:
            found["energy_j"] = joules[-1] - joules[0]
        return found


@contextlib.contextmanager
def watched(gpu: Gpu, wait: Callable[[threading.Event], bool] | None = None) -> Iterator[Watch]:
    """Read before, after, and every `INTERVAL` seconds between.

    Args:
        wait: sleeps until the next reading, or until the event is set, which it then tells; for tests.
    """
    pause = wait or (lambda over: over.wait(INTERVAL))
    watch, over = Watch(), threading.Event()
    watch.readings.append(gpu.read())

    def poll() -> None:
        while not pause(over):
            watch.readings.append(gpu.read())

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.readings.append(gpu.read())


def gpu(uuid: str) -> Gpu | None:
    """The device of that UUID, for the rest of the process; None where NVML can't say.

    By UUID: CUDA numbers only the devices that it is shown, NVML all of them.
    """
    nvml = environment.initialized_nvml()
    if nvml is None:
        return None
    try:
        return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError:
        return None
