"""What the gate is compared with: asv and pytest-benchmark, as their manuals say, on the same two built trees.

Both measure the same suite, one side after the other; tensors lie where torch puts them. Of each row the ratio is kept
that the tool itself looks at, so that other thresholds can be tried afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyprod.gate import config, revisions
from pyprod.gate.sides import BASE, HEAD, SIDES

#: asv's own default, and the limit that pytest-benchmark's manual shows for ``--benchmark-compare-fail``.
ASV_FACTOR, PYTEST_LIMIT = 1.1, 0.05

_SUITE = '''
import torch
from bench import gate_models, gate_ops

class Plain:
    """Stands for a place: every tensor stays where it is."""

    @staticmethod
    def input(tensor):
        return tensor

    weight = module = input

ALL = {**gate_ops.benchmarks(), **gate_models.benchmarks()}
torch.set_num_threads(1)
torch.inference_mode().__enter__()
'''
_PYTEST = """
import pytest

@pytest.mark.parametrize("name", ALL)
def test_suite(benchmark, name):
    benchmark(ALL[name](Plain))
"""
_ASV = """
class Suite:
    params = [list(ALL)]
    param_names = ["name"]

    def setup(self, name):
        self.call = CALLS.get(name) or CALLS.setdefault(name, ALL[name](Plain))

    def time_suite(self, name):
        self.call()

CALLS = {}
"""

Row = dict[str, Any]


def trees(clone: Path, branch: str, cache: Path) -> dict[str, Path]:
    """Both sides built, kept in `cache`."""
    repository = revisions.Repository(clone, cache)
    about = replace(config.read(repository.peek(repository.resolve(branch), "pyproject.toml")), layouts=1)
    store = revisions.Cache(cache)
    names = {BASE: "base", HEAD: branch}
    return {
        side: store.prepare(repository, repository.resolve(name), about, cache / "rivals.log")[0]
        for side, name in names.items()
    }


def pytest_benchmark(built: Mapping[str, Path], scratch: Path) -> list[Row]:
    """``--benchmark-save`` of one side, then of the other: a row for each benchmark, by the smallest duration."""
    (scratch / "test_suite.py").write_text(_SUITE + _PYTEST)
    least = {}
    for side in SIDES:
        file = scratch / f"{side}.json"
        options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(scratch), "-c", os.devnull]
        _python(built[side], scratch, "-m", "pytest", *options, "test_suite.py", f"--benchmark-json={file}")
        found = json.loads(file.read_text())["benchmarks"]
        least[side] = {row["params"]["name"]: row["stats"]["min"] for row in found}
    return _rows(least, lambda name, ratio: ratio > 1 + PYTEST_LIMIT)


def asv(built: Mapping[str, Path], clone: Path, branch: str, scratch: Path) -> list[Row]:
    """``asv run`` of both sides and ``asv compare``: a row for each benchmark, by the median."""
    package = scratch / "suite"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "timed.py").write_text(_SUITE + _ASV)
    settings: dict[str, Any] = {
        "version": 1,
        "project": "suite",
        "repo": str(clone),
        "branches": ["base"],
        "benchmark_dir": "suite",
    }
    settings |= {"environment_type": "existing", "launch_method": "forkserver"}  # or torch is imported 80 times
    (scratch / "asv.conf.json").write_text(json.dumps(settings))
    program = ["-m", "asv"]
    _python(built[BASE], scratch, *program, "machine", "--yes", "--machine", "study")
    commits = {}
    for side, name in ((BASE, "base"), (HEAD, branch)):
        done = subprocess.run(["git", "-C", str(clone), "rev-parse", name], capture_output=True, text=True, check=True)
        commits[side] = done.stdout.strip()
        options = ["-E", "existing:same", f"--set-commit-hash={commits[side]}", "--machine", "study"]
        _python(built[side], scratch, *program, "run", *options)
    medians = {side: _asv_medians(scratch / "results/study", commit) for side, commit in commits.items()}
    options = ["--factor", str(ASV_FACTOR), "--machine", "study", "--only-changed"]
    said = _python(built[BASE], scratch, *program, "compare", commits[BASE], commits[HEAD], *options)
    worse = [line for line in said.splitlines() if line.lstrip("| ").startswith("+")]
    return _rows(medians, lambda name, ratio: any(f"('{name}')" in line for line in worse))


def _asv_medians(folder: Path, commit: str) -> dict[str, float]:
    from asv.results import Results

    (file,) = folder.glob(f"{commit[:8]}*.json")
    found = Results.load(str(file))
    (name,) = found.get_all_result_keys()
    (names,) = found.get_result_params(name)
    return dict(zip((n.strip("'") for n in names), found.get_result_value(name, [names]), strict=True))


def _rows(value: Mapping[str, Mapping[str, float]], alarms: Any) -> list[Row]:
    rows = []
    for name in sorted(value[BASE].keys() & value[HEAD].keys()):
        ratio = value[HEAD][name] / value[BASE][name]
        verdict = "FAIL" if alarms(name, ratio) else "PASS"
        rows.append({"benchmark": name, "metric": "latency", "verdict": verdict, "ratio": round(ratio, 6)})
    return rows


def _python(tree: Path, folder: Path, *arguments: str) -> str:
    """Run a program of this environment on one side's tree.

    Raises:
        SystemExit: it failed.
    """
    path = f"{tree}{os.pathsep}{folder}"
    variables = os.environ | {"PYTHONPATH": path, "ASV_PYTHONPATH": path, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode not in (0, 2):  # asv says 2 when a benchmark failed
        raise SystemExit(f"{' '.join(arguments[:3])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


#: Names of the tools, as the record has them.
GATE, ASV, PYTEST = "gate", "asv", "pytest-benchmark"
TOOLS: Sequence[str] = (GATE, ASV, PYTEST)
