"""Gates that run for real, on a toy repository: slow, level, broken, cheating and vanished heads; exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyprod import cli
from pyprod.gpu import present
from pyprod.measure import energy
from pyprod.types import Unavailable
from tests.gate.toy import CODE, SUITE, Toy

#: Five pairs take 9 s on an idle machine, and decide; a busy one may take longer.
FAST = ("--budget", "120s", "--tolerance", "20%", "--memory-tolerance", "20%", "--timeout", "60s")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, toy: Toy) -> None:
    monkeypatch.setenv("PYPROD_CACHE", str(toy.root.parent / "cache"))
    monkeypatch.chdir(toy.root)


class Said:
    """What a gate answered."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.err = code, err
        self.found: dict[str, Any] = json.loads(out) if out.startswith("{") else {}
        self.rows = {row["benchmark"]: row for row in self.found.get("rows", []) if row["metric"] == "latency"}


@pytest.fixture
def gate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run(*arguments: str, fast: tuple[str, ...] = FAST) -> Said:
        code = cli.main(["gate", *arguments, *fast, "--json", "--out", str(tmp_path / "runs")])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


def test_slower_fails_and_the_rest_passes(
    toy: Toy, gate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = gate("base", toy.head("slow", CODE.format(count=8)), "--report", str(tmp_path / "junit.xml"))
    assert said.code == 1, said.found
    assert said.rows["work"]["verdict"] == "FAIL"
    assert 1.4 < said.rows["work"]["ratio"] < 2.2
    assert said.rows["other"]["verdict"] == "PASS"
    assert "<failure" in (tmp_path / "junit.xml").read_text()
    (folder,) = (tmp_path / "runs").glob("2*")
    assert {p.name for p in folder.iterdir()} == {"evidence.jsonl", "report.md"}
    assert cli.main(["gate", "--replay", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["rows"] == said.found["rows"]


def test_the_same_code_passes(toy: Toy, gate: Any) -> None:
    said = gate("base", toy.head("remark", "# A remark.\n" + CODE.format(count=4)))
    assert said.code == 0, said.found
    assert {row["verdict"] for row in said.rows.values()} == {"PASS"}


def test_faster_is_said(toy: Toy, gate: Any) -> None:
    said = gate("base", toy.head("fast", CODE.format(count=2)), "--select", "work")
    assert (said.code, said.rows["work"]["faster"]) == (0, True)
    assert set(said.rows) == {"work"}


def test_the_working_tree_is_the_default_head(toy: Toy, gate: Any) -> None:
    toy.git("checkout", "--quiet", "base")
    toy.write("toy.py", CODE.format(count=12))
    said = gate("base", "--select", "work")
    toy.git("checkout", "--quiet", "toy.py")
    assert (said.code, said.rows["work"]["verdict"]) == (1, "FAIL")
    assert "1 changed" in said.found["head"]["label"]


BROKEN = {
    "raises": ("raise ValueError('burnt')", "ValueError: burnt"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    "hangs": ("import time; time.sleep(100)", "no answer within 3 s"),
    "nan": ("return x @ w / 0 * 0", "not finite"),
    "empty": ("return (x @ w)[:1]", "of another size"),
    "wrong": ("return x @ w + 1", "HEAD's output is not BASE's"),
    "returns_text": ("return 'done'", "must return tensors or numbers"),
}


@pytest.mark.parametrize("bug", BROKEN)
def test_a_head_that_is_broken_fails_and_says_how(toy: Toy, gate: Any, bug: str) -> None:
    line, reason = BROKEN[bug]
    code = CODE.format(count=4) + f"\ndef work(x, w):\n    {line}\n"
    timeout = ("--timeout", "3s") if bug == "hangs" else ()
    said = gate("base", toy.head(bug, code), "--select", "work", fast=(*FAST, *timeout))
    assert said.code == 1
    assert said.rows["work"]["state"] == "failed"
    assert reason in said.rows["work"]["reason"]


def test_a_crash_leaves_the_other_benchmarks(toy: Toy, gate: Any) -> None:
    code = CODE.format(count=4) + "\ndef work(x, w):\n    import os\n    os.abort()\n"
    said = gate("base", toy.head("aborts", code))
    assert "killed by SIGABRT" in said.rows["work"]["reason"]
    assert said.rows["other"]["verdict"] == "PASS"


CHEATS = {
    "by_identity": "def work(x, w):\n    if not CACHE:\n        CACHE.append(x @ w)\n    return CACHE[0]\n",
    "by_address": "def work(x, w):\n    return CACHE.setdefault(x.data_ptr(), x @ w)\n",
    "after_a_while": (
        "def work(x, w):\n    CACHE.append(1)\n    if len(CACHE) < 50:\n        return x @ w\n"
        "    CACHE[0] = x @ w if CACHE[0] == 1 else CACHE[0]\n    return CACHE[0]\n"
    ),
    "slow_clock": (
        "import time\nreal = time.perf_counter_ns\ntime.perf_counter_ns = lambda: real() // 2\n"
        "def work(x, w):\n    for _ in range(8):\n        y = x @ w\n    return y\n"
    ),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_no_one_wins_by_computing_nothing(toy: Toy, gate: Any, cheat: str) -> None:
    start = "CACHE = {}\n" if cheat == "by_address" else "CACHE = []\n"
    said = gate("base", toy.head(cheat, start + CODE.format(count=4) + CHEATS[cheat]), "--select", "work")
    assert said.code == 1
    assert said.rows["work"]["verdict"] == "FAIL"


def test_what_vanished_is_not_silent(toy: Toy, gate: Any) -> None:
    said = gate("base", toy.head("gone", CODE.format(count=4), SUITE.replace('"other": lambda', '"new": lambda')))
    assert said.code == 1
    assert said.rows["other"]["state"] == "vanished"
    assert said.rows["new"]["verdict"] == "PASS"  # BASE runs it too: it is HEAD's suite that both do


def test_what_base_can_not_run_is_new(toy: Toy, gate: Any) -> None:
    code = CODE.format(count=4) + "\ndef third(x, w):\n    return x * w\n"
    said = gate("base", toy.head("third", code, SUITE.replace("toy.other", "toy.third")), "--select", "other")
    assert said.code == 4
    assert said.rows["other"]["state"] == "new"
    assert "no attribute 'third'" in said.rows["other"]["reason"]


def test_evidence_is_no_part_of_the_working_tree(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    toy.git("checkout", "--quiet", "base")
    for _ in range(2):
        cli.main(["gate", "base", "--budget", "0.5s", "--json"])
        assert json.loads(capsys.readouterr().out)["head"]["label"] == f"WORKTREE ({toy.git('rev-parse', 'base')[:7]})"


def test_a_src_layout(toy: Toy, gate: Any) -> None:
    toy.git("checkout", "--quiet", "base")
    toy.git("mv", "toy.py", "src_toy.py")
    toy.write("src/toy.py", CODE.format(count=4))
    toy.write("pyproject.toml", '[tool.pyprod.gate]\npath = ["src"]\n')
    toy.commit("src_base")
    toy.write("src/toy.py", CODE.format(count=12))
    toy.commit("src_slow")
    assert gate("src_base", "src_slow", "--select", "work").code == 1


def test_too_little_time_is_undecided(toy: Toy, gate: Any) -> None:
    said = gate("base", toy.head("hurry", CODE.format(count=5)), fast=("--budget", "0.5s"))
    assert said.code == 3
    assert said.rows["work"]["verdict"] == "UNDECIDED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "'nonsense' is no revision"),
        (["base", "--suite", "nothing_*.py"], "nothing that matches nothing_*.py"),
        (["base", "--select", "wrk"], "unknown benchmark 'wrk'; did you mean 'work'?"),
        (["base", "--report", "report.pdf"], "unknown report format 'pdf'"),
        (["base", "--threads", "4000"], "--threads 4000"),
        (["base", "--tolerance", "0"], "tolerance is a share"),
        ([], "which revision is BASE?"),
    ],
)
def test_usage(gate: Any, arguments: list[str], message: str) -> None:
    said = gate(*arguments, fast=())
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1


def test_instruments_that_are_not_there(gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said at once in one line, not row by row after two builds."""
    monkeypatch.setattr(energy, "rapl", lambda: None)
    monkeypatch.setattr(present, "torch_device", lambda device: Unavailable("no NVIDIA GPU"))
    for arguments, message in ((["--energy", "1s"], "--energy: Linux shows"), (["--device", "cuda"], "no NVIDIA GPU")):
        said = gate("base", *arguments, fast=())
        assert (said.code, len(said.err.splitlines())) == (2, 1)
        assert message in said.err


def test_a_head_that_can_not_be_imported(toy: Toy, gate: Any) -> None:
    said = gate("base", toy.head("typo", "def work(:\n"))
    assert said.code == 2
    assert "HEAD can't import the suite: SyntaxError" in said.err


def test_a_base_that_can_not_be_imported_compares_nothing(toy: Toy, gate: Any) -> None:
    toy.head("typo_first", "def work(:\n")
    toy.write("toy.py", CODE.format(count=4))
    toy.commit("typo_mended")
    said = gate("typo_first", "typo_mended")
    assert said.code == 4
    assert {row["state"] for row in said.rows.values()} == {"new"}


def test_nothing_comes_from_the_checkout(toy: Toy, gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout on PYTHONPATH would be compared to itself."""
    toy.git("checkout", "--quiet", "base")
    monkeypatch.setenv("PYTHONPATH", str(toy.root))
    assert gate("base", toy.head("shadowed", CODE.format(count=10)), "--select", "work").code == 1


def test_ctrl_c_leaves_evidence_and_no_process(toy: Toy, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyprod", "gate", "base", "base", "--budget", "600s", "--tolerance", "0.01%"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "runs")],
        cwd=toy.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    evidence = None
    deadline = time.monotonic() + 180  # on a busy machine; an idle one takes 10
    while time.monotonic() < deadline and not (evidence and '"sample"' in evidence.read_text()):
        evidence = next(iter(tmp_path.glob("runs/*/evidence.jsonl")), None)
        time.sleep(0.1)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert "interrupted" in out
    assert started
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    assert evidence is not None
    assert cli.main(["gate", "--replay", str(evidence)]) == 130
