"""A side on a GPU, over a simulated device and NVML."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyprod.gate import child, instruments
from pyprod.gate.place import DeviceMemory, Memory
from pyprod.gpu.telemetry import Gpu
from pyprod.gpu.timing import Stopwatch
from pyprod.types import Unavailable
from tests.gpu.simulated import Cuda, Nvml

SUITE = """
from tests.gate.test_instruments import DEVICE

def benchmarks():
    return {"work": work}

def work(place):
    import torch
    x = place.input(torch.arange(6.0))

    def call():
        DEVICE.work(0.2)
        return x * 2

    return call
"""
DEVICE = Cuda()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    nvml = Nvml(running=[1])
    monkeypatch.setattr(instruments, "torch", type("torch", (), {"cuda": DEVICE}))
    monkeypatch.setattr(instruments, "DeviceMemory", lambda size, device: DeviceMemory(1 << 20, "cpu"))
    monkeypatch.setattr(instruments, "Stopwatch", functools.partial(Stopwatch, cuda=DEVICE))
    monkeypatch.setattr(instruments.telemetry, "gpu", lambda uuid: Gpu(nvml, None))
    monkeypatch.setattr(instruments.present, "uuid", lambda: "GPU-0")
    return nvml


@pytest.fixture
def cuda(nvml: Nvml) -> Any:
    return instruments.instrument("cuda", True, Memory(1 << 20), Memory(1 << 20))


def test_a_slice_has_device_time_and_what_the_device_did(cuda: Any, nvml: Nvml) -> None:
    warmed = cuda.prepare(lambda: DEVICE.work(0.2))
    assert (warmed.context["graph"], warmed.context["steady"]) == (True, True)
    assert warmed.context["biases"] == ["shared: 1 other processes use this GPU"]
    nvml.state["reasons"] = 0x4
    durations, context = cuda.sample(instruments.Slice(1000, 15, 15, 1000))
    assert durations == [200_000] * 15
    assert context["throttled"] == ["power cap"]
    assert context["sm_mhz"] == [1980, 1980]
    assert cuda.peak()[0].samples == [12345.0]


def test_energy_is_that_of_a_call(cuda: Any, nvml: Nvml) -> None:
    def call() -> None:
        nvml.state["energy"] += 2  # millijoules
        DEVICE.work(0.2)

    DEVICE.capturable = False
    cuda.prepare(call)
    DEVICE.capturable = True
    (found,) = cuda.energy(0.05)
    assert found.samples[0] == pytest.approx(0.002)
    nvml.state["energy"] = None
    assert cuda.energy(0.05) == []


def test_a_whole_side(nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gate_toy.py").write_text(SUITE)
    monkeypatch.setattr("sys.modules", dict(__import__("sys").modules))
    side = child.Child("head", Memory(1 << 20), Memory(1 << 20))
    monkeypatch.setattr(child.sys, "path", list(child.sys.path))
    with torch.enable_grad():  # which a side leaves off
        side.load(str(tmp_path), ["."], [str(tmp_path / "gate_toy.py")], "/nowhere", 1, "cuda", True)
        assert not torch.is_grad_enabled()
        side.setup("work", "seed")
    (found,) = side.slice(0, 3, 1000, 5, 5, 1000)
    assert list(found.samples) == [200_000] * 5
    side.output(4, str(tmp_path))
    assert sorted(np.load(tmp_path / "head.npy")) == [0, 2, 4, 6, 8, 10]


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(Unavailable, match="can't use a GPU"):
        instruments.instrument("cuda", True, Memory(1 << 20), Memory(1 << 20))
