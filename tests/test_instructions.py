"""Reading callgrind's counts and comparing them; `make instructions ARGS=--check` counts for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyprod import _probe, discover

ROOT = Path(__file__).parents[1]
instructions = discover.load_file(ROOT / "tools/instructions.py")

DUMP = """# callgrind format
version: 1
desc: Trigger: Client Request: int8_gemm/40
events: Ir

fl=???
ob=/usr/lib/libc.so.6
fn=memcpy
0 1000

ob=/somewhere/pyprod/libpyprod.so
fn=tile
12 30
+1 7
cob=/usr/lib/libc.so.6
cfi=malloc.c
cfn=malloc
calls=3 99
12 500
13 5
cfn=std::allocator<int>::free()
calls=4 99
13 600

ob=/usr/lib/libc.so.6
fn=other
cfn=malloc
calls=9 99
5 700
totals: 2042
"""


def test_a_dump_is_read() -> None:
    assert instructions.trigger(DUMP) == "int8_gemm/40"
    assert instructions.trigger(DUMP.replace("Client Request: int8_gemm/40", "Program termination")) is None
    assert instructions.read(DUMP.splitlines()) == {"instructions": 42, "allocations": 3}


def test_the_ratchet_turns_both_ways() -> None:
    known = {name: {"instructions": 10_000, "allocations": 2} for name in ("same", "near", "worse", "better", "gone")}
    now = {"same": (10_000, 2), "near": (10_099, 2), "worse": (10_101, 3), "better": (9_899, 2), "new": (5, 0)}
    found = {name: {"instructions": n, "allocations": a} for name, (n, a) in now.items()}
    *wrong, advice = instructions.differences(known, found)
    assert wrong == [
        "better: 10,000 -> 9,899 instructions (-1.0%): better: record it",
        "gone: is recorded but not counted any more",
        "new: is not recorded yet",
        "worse: 10,000 -> 10,101 instructions (+1.0%): slower: find out why",
        "worse: 2 -> 3 heap allocations",
    ]
    assert "make instructions" in advice
    assert instructions.differences(known, known) == []


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_without_valgrind_it_says_so_and_does_nothing(tmp_path: Path, check: list[str]) -> None:
    for name in ("g++", "python3"):
        (tmp_path / name).symlink_to("/bin/false")
    before = instructions.RECORD.read_bytes()
    command = [sys.executable, ROOT / "tools/instructions.py", *check]
    done = subprocess.run(command, env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (
        0,
        "instructions: skipped: there is no valgrind; install it (apt-get install valgrind)\n",
    )
    assert instructions.RECORD.read_bytes() == before


def test_another_compiler_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions.shutil, "which", lambda _: "/usr/bin/valgrind")
    assert "the record is of g++ 1.2.3, this is g++" in instructions.why_not({"compiler": "g++ 1.2.3"})
    assert instructions.why_not({"compiler": instructions.compiler()}) is None
    assert instructions.why_not(None) is None


def test_every_call_is_recorded_on_every_path() -> None:
    from tests.kernels.calls import CALLS, ROWS

    recorded = json.loads(instructions.RECORD.read_text())["per_call"]
    assert set(recorded) == {f"{isa}/{op}/{rows}" for isa in instructions.ISAS for op in CALLS for rows in ROWS}
    assert all(counts["instructions"] > 100 for counts in recorded.values())


def test_requests_to_valgrind_are_nothing_without_it() -> None:
    assert not _probe.under_valgrind()
    _probe.start_counting()
    _probe.stop_counting("nothing")
