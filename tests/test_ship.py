"""``pyprod ship``: made once, measured once, chosen with the reasons for all others."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyprod.measure import store

TINY = "tests/tiny.py:build"
RECIPE = f"""
workload = "{TINY}"
[recipes.trained]
steps = [{{ step = "magnitude", sparsity = 0.3 }}]
[recipes.impossible]
steps = [{{ step = "layers", stack = "nothing", keep = [0] }}]
[bench]
backends = ["eager.fp32", "torchscript.traced"]
rounds = 5
[export]
formats = ["safetensors"]
[require]
DEMAND
"""


def ship(folder: Path, demand: str, *options: str) -> subprocess.CompletedProcess[str]:
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.replace("DEMAND", demand))
    command = [sys.executable, "-m", "pyprod", "ship", str(recipe), "--out", str(folder / "results"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYPROD_CACHE", str(tmp_path / "cache"))


def test_ship_and_ship_again(tmp_path: Path) -> None:
    first = ship(tmp_path, "size_mb = 100", "--json")
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert "unknown stack of layers 'nothing'" in found["failed"]["impossible"]
    (choice,) = found["choices"]
    forms = {
        f"{recipe}/{backend}" for recipe in ("base", "trained") for backend in ("eager.fp32", "torchscript.traced")
    }
    assert {name.removeprefix(f"{TINY}/").removesuffix("/cpu/b1/t1") for name in choice["judged"]} == forms
    assert choice["chosen"] in choice["judged"]
    record = tmp_path / "results" / found["record"]
    assert json.loads((record / "choice.json").read_text()) == found
    assert (record / "report.html").is_file()
    notes = [m.context["notes"] for m in store.read(record).measurements if m.metric == "build_time"]
    assert any("30% of the weights are zero" in " ".join(note) for note in notes)
    ((row,),) = found["files"].values()
    assert (record / "files" / row["file"]).is_file()

    started = time.monotonic()
    again = ship(tmp_path, "size_mb = 100", "--json")
    assert json.loads(again.stdout) == found
    assert time.monotonic() - started < 60, "nothing was to be done"


def test_where_nothing_meets_the_demands(tmp_path: Path) -> None:
    done = ship(tmp_path, "p99_ms = 0.000001")
    assert done.returncode == 3, done.stderr
    assert "no form meets all demands" in done.stdout
    assert "nearest: " in done.stdout
    assert "recipe impossible could not be made" in done.stdout


def test_a_quantspec_is_run_by_what_lowers_one(tmp_path: Path) -> None:
    steps = f'workload = "{TINY}"\n[recipes.few]\nsteps = [{{ step = "ptq", weight_bits = 3 }}]\n[bench]\nrounds = 5\n'
    (tmp_path / "r.toml").write_text(steps + 'backends = ["eager.fp32"]')
    command = [sys.executable, "-m", "pyprod", "ship", str(tmp_path / "r.toml"), "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "recipe few: none of [bench] backends runs its QuantSpec; add native.int8" in done.stderr
    (tmp_path / "r.toml").write_text(steps + 'backends = ["eager.fp32", "native.int8"]\n[require]\nsize_mb = 100')
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (choice,) = json.loads(done.stdout)["choices"]
    forms = {name.removeprefix(f"{TINY}/").removesuffix("/cpu/b1/t1") for name in choice["judged"]}
    assert forms == {"base/eager.fp32", "base/native.int8", "few/native.int8"}


def test_a_misspelt_step_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('workload = "digits"\n[recipes.x]\nsteps = [{ step = "finetuned" }]')
    command = [sys.executable, "-m", "pyprod", "ship", str(tmp_path / "r.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "pyprod: unknown step 'finetuned'; did you mean 'finetune'?\n"
