"""asv's benchmarks under the gate's rule: found, named and set up as asv does, each side on its own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyprod import cli
from pyprod.gate import asv
from pyprod.types import PyprodError, Unavailable
from tests.gate.toy import CODE, Toy

BENCHMARKS = """
import functools
import torch
import toy
from .shapes import SIZES

@functools.cache
def operands(n):
    return torch.randn(n, n), torch.randn(n, n)

class Work:
    params = (SIZES, ["plain", "absent"])
    param_names = ("size", "kind")

    def setup(self, size, kind):
        if kind == "absent":
            raise NotImplementedError
        self.calls = 0

    def time_work(self, size, kind):
        toy.work(*operands(size))

    def track_nothing(self, size, kind):
        return 1.0

class Cached:
    def setup_cache(self):
        return 7

    def time_it(self, seven):
        assert seven == 7

def time_other():
    toy.other(*operands(64))
"""


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    (tmp_path / "repo").mkdir()
    toy = Toy(tmp_path / "repo")
    toy.write("asv.conf.json", '{"version": 1, "project": "toy", "repo": ".", "benchmark_dir": "bench"} // a comment\n')
    toy.write("bench/__init__.py", "")
    toy.write("bench/shapes.py", "SIZES = [64, 8]\n")
    toy.write("bench/bench_toy.py", BENCHMARKS)
    toy.commit("asv")
    return toy


def test_names_and_setups_are_asv_s_own(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(toy.root))
    found = {timed.name: timed for timed in asv.suite(toy.root / asv.folder(toy.root / "asv.conf.json"))}
    assert set(found) == {
        "bench_toy.Cached.time_it",
        "bench_toy.time_other",
        *(f"bench_toy.Work.time_work({size}, '{kind}')" for size in (64, 8) for kind in ("plain", "absent")),
    }
    assert {timed.file for timed in found.values()} == {str(toy.root / "bench/bench_toy.py")}
    for name, timed in found.items():
        if "absent" in name:
            with pytest.raises(Unavailable, match="not with these parameters"):
                timed.setup(None)
        else:
            timed.setup(None)()


def test_each_benchmark_has_a_fresh_module(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one keeps in a global lies in memory that the next one may be given."""
    monkeypatch.syspath_prepend(str(toy.root))
    found = {timed.name: timed for timed in asv.suite(toy.root / "bench")}
    call = found["bench_toy.Work.time_work(64, 'plain')"].setup(None)
    call()
    operands = call.func.__globals__["operands"]
    assert operands.cache_info().currsize == 1
    found["bench_toy.time_other"].setup(None)
    assert not call.func.__globals__


def test_a_gate_of_asv_s_benchmarks(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.write("toy.py", CODE.format(count=8))
    toy.commit("slow")
    monkeypatch.setenv("PYPROD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(toy.root)
    options = ["--tolerance", "20%", "--memory-tolerance", "20%", "--budget", "120s", "--json"]
    code = cli.main(["gate", "asv", "slow", "--asv", *options, "--out", str(tmp_path / "runs")])
    rows = {row["benchmark"]: row for row in json.loads(capsys.readouterr().out)["rows"] if row["metric"] == "latency"}
    assert code == 1, rows
    assert rows["bench_toy.Work.time_work(64, 'plain')"]["verdict"] == "FAIL"
    assert rows["bench_toy.time_other"]["verdict"] == "PASS"
    assert rows["bench_toy.Work.time_work(64, 'absent')"]["state"] == "skipped"


@pytest.mark.parametrize("text", ["", "{", '{"version": 3}'])
def test_a_configuration_that_asv_can_t_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "asv.conf.json"
    if text:
        path.write_text(text)
    with pytest.raises(PyprodError, match=r"HEAD's asv\.conf\.json can't be read"):
        asv.folder(path)


def test_a_folder_that_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    with pytest.raises(PyprodError, match=r"asv wants an __init__\.py"):
        list(asv.suite(tmp_path / "benchmarks"))
