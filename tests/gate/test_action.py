"""The GitHub action: its script, run by bash on a toy repository as a runner would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gate.toy import CODE, Toy

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text())


def run(toy: Toy, tmp_path: Path, head: str, arguments: str, undecided: str = "warn") -> tuple[int, str, str]:
    """Exit code, the step's output and the job's summary."""
    (script,) = (step["run"] for step in ACTION["runs"]["steps"] if step.get("id") == "gate")
    toy.git("checkout", "--quiet", head)
    output, summary = tmp_path / "output", tmp_path / "summary"
    variables = {
        "BASE": toy.git("rev-parse", "base"),
        "ARGUMENTS": arguments,
        "PYPROD": f"{sys.executable} -m pyprod",
        "UNDECIDED": undecided,
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "PYPROD_CACHE": str(tmp_path / "cache"),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=toy.root, env=os.environ | variables, capture_output=True, text=True)
    return done.returncode, output.read_text(), summary.read_text() if summary.is_file() else done.stderr


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    (tmp_path / "repository").mkdir()
    return Toy(tmp_path / "repository")


def test_a_regression_fails_the_step_and_is_told(toy: Toy, tmp_path: Path) -> None:
    head = toy.head("slow", CODE.format(count=12))
    code, output, summary = run(
        toy, tmp_path, head, "--select work --tolerance 20% --memory-tolerance 20% --budget 120s"
    )
    assert (code, output) == (1, "verdict=FAIL\n")
    assert "❌ FAIL" in summary
    names = {path.name for path in (toy.root / "gate-report").iterdir()}
    assert names == {"gate.md", "gate.json", "junit.xml", "gate.sarif"}


@pytest.mark.parametrize(("undecided", "expected"), [("warn", 0), ("fail", 3)])
def test_undecided_warns_or_fails(toy: Toy, tmp_path: Path, undecided: str, expected: int) -> None:
    code, output, _ = run(toy, tmp_path, toy.head("hurry", CODE.format(count=5)), "--budget 0.5s", undecided)
    assert (code, output) == (expected, "verdict=UNDECIDED\n")


def test_an_error_is_an_error(toy: Toy, tmp_path: Path) -> None:
    code, output, stderr = run(toy, tmp_path, "base", "--select nothing")
    assert (code, output) == (2, "verdict=ERROR\n")
    assert "unknown benchmark" in stderr


def test_every_input_is_used(toy: Toy) -> None:
    text = (ROOT / ".github/actions/gate/action.yml").read_text()
    assert all(f"inputs.{name} " in text for name in ACTION["inputs"])


def test_the_workflow_uses_it() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/gate.yml").read_text())
    (step,) = (s for s in workflow["jobs"]["gate"]["steps"] if s.get("uses") == "./.github/actions/gate")
    assert set(step["with"]) <= set(ACTION["inputs"])
