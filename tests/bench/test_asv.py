"""What asv runs, without asv's own machinery: the benchmarks on a tiny model, and the environment they run in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from asv.config import Config
from asv.machine import Machine, MachineCollection

from pyprod import environment
from tools import asv_environment

ROOT = Path(__file__).parents[2]

MODELS = """
import json
from bench.bench_models import Models

models = Models()
rows = models.setup_cache()
found = {}
for workload in Models.params[0]:
    for backend in Models.params[1]:
        parameters = (workload, backend, "cpu", 1, 1)
        try:
            models.setup(rows, *parameters)
        except NotImplementedError as why:
            found[backend] = str(why)
        else:
            tracks = [name for name in dir(models) if name.startswith("track_")]
            found[backend] = {name: getattr(models, name)(rows, *parameters) for name in tracks}
print(json.dumps(found))
"""


def test_every_backend_is_a_number_or_a_reason(tmp_path: Path) -> None:
    chosen = {"PYPROD_ASV_WORKLOADS": f"{ROOT}/tests/tiny.py:build", "PYPROD_ASV_BACKENDS": "eager"}
    environ = os.environ | chosen | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", MODELS], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["eager.fp32"]["track_inaccuracy"] == 0.1
    assert 0 < found["eager.fp32"]["track_latency"] < 1
    assert set(found["eager.fp32"]) == {
        "track_latency", "track_inverse_throughput", "track_peak_memory", "track_size", "track_inaccuracy"
    }  # fmt: skip
    assert found["eager.fp16"].endswith("float16 has no fast CPU path in PyTorch (use eager.bf16)")


def test_ops_are_checked_before_they_are_timed() -> None:
    from bench.bench_ops import Linear, operands

    benchmarks = Linear()
    for name in (name for name in dir(benchmarks) if name.startswith("time_")):
        getattr(benchmarks, name)("1x384x1536", 1)
    assert operands.cache_info().misses == 1


def test_an_environment_of_its_own_beside_our_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    conf = Config.load()
    conf.env_dir = str(tmp_path)
    made = asv_environment.Shared(conf, conf.pythons[0], {}, {})
    made.create()
    assert made.check_presence()
    where = made.run(["-c", "import sys, importlib.util as u; print(sys.prefix, u.find_spec('torch').origin)"])
    prefix, torch = where.split()
    assert Path(prefix) == Path(made._path)
    assert Path(torch).is_file()
    assert not Path(torch).is_relative_to(tmp_path)


def test_the_machine_is_known_and_its_host_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Machine, "hardcoded_machine_name", None)
    monkeypatch.setattr(MachineCollection, "get_machine_file_path", MachineCollection.get_machine_file_path)
    asv_environment.setup()
    machine = Machine.load(interactive=False)
    assert machine.machine == environment.machine()
    assert (tmp_path / asv_environment.MACHINES).is_file()
    assert f'"{socket.gethostname()}"' not in (tmp_path / asv_environment.MACHINES).read_text()
