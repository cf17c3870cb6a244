"""The history: what asv wrote is read, steps are found where they are, and told with their commits."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from pyprod import cli, history
from pyprod.history import page
from pyprod.types import PyprodError

asv = pytest.importorskip("asv.results")


class Result:
    """What asv's runner gives for one benchmark."""

    def __init__(self, values: list[float | None]) -> None:
        self.result = values
        self.samples = [None] * len(values)
        self.number = [None] * len(values)
        self.errcode, self.stderr, self.profile = 0, "", None


def write(folder: Path, levels: dict[str, list[float | None]], machine: str = "toaster") -> None:
    """A commit a day; `levels` has a value for each commit by the benchmark's parameter."""
    (folder / machine).mkdir(parents=True)
    params = {"machine": machine, "arch": "", "cpu": "", "num_cpu": "", "os": "", "ram": ""}
    (folder / machine / "machine.json").write_text(json.dumps(params | {"version": 1}))
    count = len(next(iter(levels.values())))
    for i in range(count):
        found = asv.Results(params, {}, f"{i:08x}" + 32 * "f", 1000 * i, "3.11", "env", {})
        benchmark = {"name": "bench.time_it", "version": "1", "params": [[f"'{name}'" for name in levels]]}
        found.add_result(benchmark, Result([values[i] for values in levels.values()]), record_samples=False)
        found.save(str(folder))


def noisy(*levels: tuple[int, float]) -> list[float | None]:
    return [value * random.uniform(0.99, 1.01) for count, value in levels for _ in range(count)]


def test_a_step_is_found_with_its_commits(tmp_path: Path) -> None:
    write(tmp_path / "asv", {"up": noisy((12, 1.0), (8, 1.2)), "level": noisy((20, 3.0))})
    series = {s.name: s for s in history.read(tmp_path / "asv")}
    assert set(series) == {"bench.time_it(up)", "bench.time_it(level)"}
    (step,) = history.steps(series["bench.time_it(up)"], 0.03)
    assert (step.last[:8], step.first[:8]) == ("0000000b", "0000000c")
    assert step.ratio == pytest.approx(1.2, abs=0.02)
    assert list(history.steps(series["bench.time_it(level)"], 0.03)) == []


def test_a_failure_is_a_gap_and_no_step(tmp_path: Path) -> None:
    values = noisy((20, 1.0))
    values[4] = values[11] = None
    write(tmp_path / "asv", {"x": values})
    (series,) = history.read(tmp_path / "asv")
    assert math.isnan(series.values[4])
    assert list(history.steps(series, 0.03)) == []


def test_what_was_mended_is_not_worse(tmp_path: Path) -> None:
    write(tmp_path / "asv", {"mended": noisy((9, 1.0), (9, 1.3), (9, 1.0)), "worse": noisy((14, 1.0), (13, 1.3))})
    worse = {s.name: history.unmended(list(history.steps(s, 0.03)), 0.03) for s in history.read(tmp_path / "asv")}
    assert worse == {"bench.time_it(mended)": False, "bench.time_it(worse)": True}


def test_selection(tmp_path: Path) -> None:
    write(tmp_path / "asv", {"x": noisy((3, 1.0)), "y": noisy((3, 1.0))}, "a")
    write(tmp_path / "asv", {"x": noisy((3, 1.0)), "y": noisy((3, 1.0))}, "b")
    assert [(s.machine, s.name) for s in history.read(tmp_path / "asv", ["*(x)"], "b")] == [("b", "bench.time_it(x)")]
    with pytest.raises(PyprodError, match="unknown benchmark or machine"):
        history.read(tmp_path / "asv", ["*(z)"])


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match="no results in"):
        history.read(tmp_path / "asv")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "asv", {"up": noisy((12, 1.0), (8, 1.2)), "down": noisy((12, 1.0), (8, 0.5))})
    common = ["history", "--results", str(tmp_path / "asv")]
    assert cli.main([*common, "--html", str(tmp_path / "history.html")]) == 0
    out = capsys.readouterr().out
    assert "2 steps in 2 series; 1 are now worse" in out
    assert "0000000b..0000000c" in out
    assert (tmp_path / "history.html").read_text().count("<svg") == 2
    assert cli.main([*common, "--json", "--fail"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["worse_now"] == ["bench.time_it(up)"]
    assert cli.main([*common, "--fail", "*(down)"]) == 0


def test_the_page_escapes(tmp_path: Path) -> None:
    series = history.Series("m", "<b>&", ("a" * 40,), (1.0,))
    text = page.to_html({series: []})
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
