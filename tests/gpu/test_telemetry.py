"""Readings of a simulated GPU: what is seen between the ends, and what NVML does not say."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pyprod.gpu import telemetry
from pyprod.gpu.telemetry import Gpu, Reading, watched
from tests.gpu.simulated import Nvml


def scripted(nvml: Nvml, *states: dict[str, Any]) -> Any:
    """Set each state before the next reading, then wait for the end."""
    waiting = iter(states)

    def wait(over: threading.Event) -> bool:
        if state := next(waiting, None):
            nvml.state |= state
            return False
        return over.wait(10)

    return wait


def test_a_reading_has_units() -> None:
    nvml = Nvml(reasons=0x4 | 0x1 | 0x40)
    assert Gpu(nvml, None).read() == Reading(1980, 3201, 300.0, 40, ("power cap", "thermal (hardware)"), 0.0)


def test_what_nvml_does_not_say_is_none() -> None:
    nvml = Nvml(sm=None, mem=None, power=None, energy=None, temperature=None, reasons=None)
    assert Gpu(nvml, None).read() == Reading(None, None, None, None, (), None)


def test_a_clock_that_drops_between_the_ends_is_seen() -> None:
    nvml = Nvml(energy=1_000_000)
    dip = ({"sm": 1200, "reasons": 0x20}, {"sm": 1980, "reasons": 0, "energy": 1_500_000})
    with watched(Gpu(nvml, None), scripted(nvml, *dip)) as watch:
        while len(watch.readings) < 3:
            pass
    found = watch.summary()
    assert found["sm_mhz"] == [1200, 1980]
    assert found["throttled"] == ["thermal (software)"]
    assert found["energy_j"] == 500.0


def test_idle_and_chosen_clocks_are_no_throttling() -> None:
    nvml = Nvml(reasons=0x1 | 0x2 | 0x100)
    with watched(Gpu(nvml, None), lambda over: over.wait(10)) as watch:
        pass
    assert watch.summary()["throttled"] == []


def test_the_device_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(uuids={"GPU-b": "second"})
    monkeypatch.setattr(telemetry.environment, "initialized_nvml", lambda: nvml)
    found = telemetry.gpu("GPU-b")
    assert found is not None
    assert vars(found)["_handle"] == "second"
    assert telemetry.gpu("GPU-a") is None
    monkeypatch.setattr(telemetry.environment, "initialized_nvml", lambda: None)
    assert telemetry.gpu("GPU-b") is None


def test_what_makes_a_device_worth_less() -> None:
    assert Gpu(Nvml(), None).biases([1]) == []
    assert Gpu(Nvml(mig=(1, 1), running=[1, 7]), None).biases([1]) == [
        "MIG: a slice of a GPU that others may load",
        "shared: 1 other processes use this GPU",
    ]
