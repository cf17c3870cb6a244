"""Joules from a tree of files like Linux's."""

from __future__ import annotations

from pathlib import Path

from pyprod.measure import energy


def package(root: Path, name: str, microjoules: int, most: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_are_summed_and_their_parts_left_out(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 100)
    package(tmp_path, "intel-rapl:1", 200)
    package(tmp_path, "intel-rapl:0:0", 50)  # the cores of package 0
    meter = energy.rapl(tmp_path)
    assert meter is not None
    package(tmp_path, "intel-rapl:0", 500_100)
    package(tmp_path, "intel-rapl:0:0", 400_000)
    assert meter.joules() == 0.5
    package(tmp_path, "intel-rapl:1", 250_200)
    assert meter.joules() == 0.75


def test_a_counter_that_wraps(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 900_000)
    meter = energy.rapl(tmp_path)
    assert meter is not None
    package(tmp_path, "intel-rapl:0", 100_000)
    assert meter.joules() == 0.2


def test_a_machine_without_counters(tmp_path: Path) -> None:
    assert energy.rapl(tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("not permitted")
    assert energy.rapl(tmp_path) is None
