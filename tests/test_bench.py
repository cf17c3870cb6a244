"""Choosing candidates, measuring them, resuming: with a tiny workload and real backends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pyprod import bench, cli
from pyprod.measure import store
from pyprod.measure.heat import Settings
from pyprod.types import Candidate, Failure, Measurement, PyprodError

TINY = "tests/tiny.py:build"
QUICK = ["--rounds", "3", "--slice", "0.01", "--max-samples", "5", "--warmup", "0.05", "--workload", TINY]


class Silent:
    def planned(self, steps: int) -> None: ...

    def step(self, what: str) -> None: ...

    def failed(self, candidate: Candidate, failure: Failure) -> None: ...


def test_a_family_stands_for_its_variants() -> None:
    chosen = bench.select(workload_names=[TINY], backend_names=["eager"], batches=[1, 2])
    assert {c.backend for c in chosen} >= {"eager.fp32", "eager.bf16"}
    assert {c.batch for c in chosen} == {1, 2}


def test_patterns_narrow() -> None:
    chosen = bench.select(["*/eager.fp32/*/b2/*"], workload_names=[TINY], batches=[1, 2])
    assert [(c.backend, c.batch) for c in chosen] == [("eager.fp32", 2)]


@pytest.mark.parametrize(
    ("patterns", "names", "message"),
    [
        ([], {"workload_names": ["encodr"]}, "unknown workload 'encodr'; did you mean 'encoder'"),
        ([], {"backend_names": ["onxruntime"]}, "unknown backend 'onxruntime'; did you mean 'onnxruntime"),
        (["*/nothing/*"], {"workload_names": [TINY]}, "unknown candidate"),
    ],
)
def test_unknown_names_suggest_near_ones(patterns: list[str], names: dict[str, list[str]], message: str) -> None:
    with pytest.raises(PyprodError, match=message):
        bench.select(patterns, **names)


def test_more_threads_than_cpus_is_refused() -> None:
    with pytest.raises(PyprodError, match="4096 threads asked for"):
        bench.slots(4096)


def test_slots_share_no_cpu() -> None:
    cpus = [cpu for slot in bench.slots(1).values() for cpu in slot]
    assert sorted(cpus) == sorted(os.sched_getaffinity(0))


def test_a_plan_survives_json() -> None:
    plan = bench.Plan((Candidate("a/b.py:c", "eager.fp32", batch=2),), Settings(rounds=7))
    assert bench.Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_the_stored_command_says_how_and_not_where() -> None:
    typed = ["/opt/bin/pyprod", "bench", "--out", "/home/me/r", "--batch", "8", "--out=/tmp"]
    assert bench.command(typed) == ["pyprod", "bench", "--batch", "8"]


def test_a_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["bench", *QUICK, "--backend", "eager", "torchscript", "--out", str(tmp_path), "--json"])
    assert code == 0
    out = json.loads(capsys.readouterr().out)
    rows = {row["backend"]: row for row in out["rows"]}
    assert rows["eager.bf16"]["latency_p50_ms"] > 0
    assert rows["torchscript.traced"]["speedup"] > 0
    record = store.read(Path(out["record"]))
    twins = [m for m in record.measurements if m.replica == 1 and m.metric == "latency"]
    assert len(twins) == 3
    assert (record.path / "report.html").stat().st_size > 10_000
    assert cli.main(["report", out["record"]]) == 0
    assert "eager.bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "4096"], "4096 threads asked for"),
        (["--sort", "latensy"], "unknown column 'latensy' to sort by; did you mean 'latency'"),
        (["--backend", "eagre"], "unknown backend 'eagre'"),
    ],
)
def test_what_is_refused_leaves_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["bench", *QUICK, *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_measured_is_told_by_the_exit_code(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def build():\n    raise RuntimeError('no such luck')\n")
    arguments = ["bench", *QUICK[:-1], f"{broken}:build", "--backend", "eager", "--out", str(tmp_path)]
    assert cli.main(arguments) == 4


def test_a_killed_run_is_resumed_without_measuring_again(tmp_path: Path) -> None:
    """SIGKILL the whole program in the middle: its workers die with it, and what was measured stays."""
    command = [sys.executable, "-m", "pyprod", "bench", *QUICK, "--backend", "eager", "torchscript"]
    running = subprocess.Popen([*command, "--slice", "0.3", "--out", str(tmp_path)], stdout=subprocess.DEVNULL)
    workers = _wait_for_rounds(tmp_path, running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (path,) = tmp_path.iterdir()
    before = store.read(path).measurements
    psutil.wait_procs(workers, timeout=10)
    assert not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers)

    bench.resume(path, Silent())
    after = store.read(path).measurements
    assert after[: len(before)] == before
    done = {m.candidate for m in before if m.metric == "peak_rss" and m.candidate.backend != bench.BASELINE}
    assert all(m.candidate not in done for m in after[len(before) :])
    for candidate in {m.candidate for m in after}:
        failed = [m for m in after if m.candidate == candidate and m.failure]
        assert failed or len(_rounds(after, candidate)) >= 3
        assert len(_rounds(after, candidate)) == len([m for m in after if _is_round(m, candidate)])

    count = len(after)
    bench.resume(path, Silent())
    assert len(store.read(path).measurements) == count


def test_ctrl_c_leaves_a_readable_record_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyprod", "bench", *QUICK, "--backend", "eager", "--slice", "1", "--rounds", "50"]
    running = subprocess.Popen([*command, "--max-samples", "100000", "--out", str(tmp_path)], stderr=subprocess.PIPE)
    workers = _wait_for_rounds(tmp_path, running)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=180)
    assert running.returncode == 130
    (path,) = tmp_path.iterdir()
    assert f"--resume {path}" in stderr.decode()
    assert "Traceback" not in stderr.decode()
    assert (path / "report.html").is_file()
    assert not any(w.is_running() for w in workers)


def test_a_failure_is_not_retried_and_the_scored_are_not_scored_again() -> None:
    history = bench._History()
    one, two = Candidate("w", "a.x"), Candidate("w", "b.x")
    history.add(Measurement(one, "failure", "", (), failure=Failure("crash", "time", "killed")))
    history.add(Measurement(two, "accuracy", "mean", (1.0,)))
    history.add(Measurement(two, "latency", "ns", (1.0,), round=4))
    assert not history.done(two)
    history.add(Measurement(two, "peak_rss", "bytes", (1.0,)))
    assert history.done(one)
    assert history.done(two)
    assert history.scored == {dataclasses.replace(two, batch=8).form}
    assert history.next_round == 5


def _is_round(measurement: Measurement, candidate: Candidate) -> bool:
    return measurement.candidate == candidate and measurement.metric == "latency" and not measurement.replica


def _rounds(measurements: tuple[Measurement, ...], candidate: Candidate) -> set[int]:
    return {m.round for m in measurements if _is_round(m, candidate)}


def _wait_for_rounds(root: Path, running: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Wait until a run under `root` has taken its first latencies; its worker processes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        records = [p for p in root.iterdir() if (p / store.PLAN).exists()]
        if records and any(m.metric == "latency" for m in store.read(records[0]).measurements):
            return psutil.Process(running.pid).children(recursive=True)
        time.sleep(0.05)
    raise AssertionError(f"no latency within 120 s; exit status {running.poll()}")
