"""What a stranger reads when the set-up can't go on: one line that says what to do. And help knows every target."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STEP = ROOT / "tools/step"


def step(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(STEP), *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('[ "$1" = --version ] && echo Python 3.9.2 && exit; exit 1', "Python 3.9.2 is too old, need 3.11 or newer"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "has no venv module; install it"),
    ],
)
def test_a_python_that_will_not_do(tmp_path: Path, script: str, message: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    done = step("--check", str(python))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_python() -> None:
    assert step("--check", "python3.99").stderr.startswith(
        "pyprod: there is no python3.99; install Python 3.11 or newer"
    )


def test_no_compiler() -> None:
    done = step("--check", sys.executable, CXX="no-such-compiler")
    assert done.returncode == 2
    assert done.stderr.startswith("pyprod: there is no C++ compiler no-such-compiler; install g++ 11 or newer")


def test_a_step_that_fails_shows_the_end_of_its_log_and_keeps_all_of_it(tmp_path: Path) -> None:
    done = step("[1/1] counting", "sh", "-c", "seq 100; echo broken >&2; exit 3", TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == "[1/1] counting ... failed\n"
    assert "\n100\nbroken\npyprod: that step failed: sh -c" in done.stderr
    (log,) = tmp_path.iterdir()
    assert str(log) in done.stderr
    assert log.read_text().startswith("1\n2\n")


def test_a_step_that_works_is_one_line(tmp_path: Path) -> None:
    done = step("[1/1] nothing", "sh", "-c", "echo noise", TMPDIR=str(tmp_path))
    assert re.fullmatch(r"\[1/1\] nothing \.\.\. \d+ s\n", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_help_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: FORCE (.*)$", makefile, re.MULTILINE)
    assert declared is not None
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert sorted(declared[1].split()) == sorted(re.findall(r"^  (\S+) +[A-Z]", shown, re.MULTILINE))
