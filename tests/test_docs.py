"""Every table of numbers in README.md and docs/ is what results/ holds, made by a command anybody can run again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyprod import discover
from pyprod.measure import store
from pyprod.types import Candidate, Measurement

ROOT = Path(__file__).parents[1]
splice = discover.load_file(ROOT / "tools/splice_docs.py")

ENVIRONMENT = {"cpu": {"model": "Abacus 9000"}, "packages": {"torch": "2.13.0", "openvino": None}}
PLAN = {"command": ["pyprod", "bench"], "candidates": []}
TEXT = "before\n<!-- measured: toast/cpu/b1/t1 -->\nold\n<!-- /measured -->\nafter\n"


def record(root: Path, name: str, milliseconds: float) -> None:
    path = store.create(root, name, ENVIRONMENT, PLAN)
    with store.Writer(path) as writer:
        for round_ in range(3):
            for backend in ("eager.fp32", "rye.fp32"):
                latency = (milliseconds * 1e6,) * 5
                writer.append(Measurement(Candidate("toast", backend), "latency", "ns", latency, round_))


def test_the_documents_show_what_is_in_results() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/splice_docs.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run make docs"


def test_readme_has_measured_tables() -> None:
    blocks = splice.BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks) >= 2


def test_a_block_is_made_from_the_newest_record_with_machine_and_command(tmp_path: Path) -> None:
    record(tmp_path, "2026-01-01-abacus", 7.0)
    record(tmp_path, "2026-01-02-abacus", 8.0)
    text = splice.spliced(TEXT, tmp_path)
    assert re.match(r"before\n<!-- measured: toast/cpu/b1/t1 -->\n.*<!-- /measured -->\nafter\n$", text, re.DOTALL)
    for part in ("rye.fp32", "8.00", "Abacus 9000", "torch 2.13.0", "`pyprod bench`", "results/2026-01-02-abacus"):
        assert part in text
    assert "7.00" not in text
    assert "openvino" not in text
    assert splice.spliced(text, tmp_path) == text


def kernel_record(root: Path, name: str, ours_us: float, peer_us: float) -> None:
    path = store.create(root, name, ENVIRONMENT, PLAN | {"suite": "kernels"})
    with store.Writer(path) as writer:
        for round_ in range(3):
            for backend, us in (("native.int8", ours_us), ("eager.fp32", peer_us)):
                candidate = Candidate("linear/n768-k768", backend, batch=8)
                writer.append(Measurement(candidate, "latency", "ns", (us * 1e3,) * 5, round_))


def test_tables_of_the_kernel_suite_are_from_its_newest_record(tmp_path: Path) -> None:
    text = "<!-- measured: kernels:pyprod~against -->\n<!-- /measured -->\n"
    assert "*Not measured yet.*" in splice.spliced(text, tmp_path)
    record(tmp_path, "2026-01-03-abacus", 7.0)
    kernel_record(tmp_path, "2026-01-01-abacus-kernels", 10.0, 40.0)
    kernel_record(tmp_path, "2026-01-02-abacus-kernels", 10.0, 20.0)
    made = splice.spliced(text, tmp_path)
    assert "| linear | 1 | 2.000 \\[2.000, 2.000\\] | 1 of 1 | 2.00 (M=8 768x768) | – |" in made
    assert "results/2026-01-02-abacus-kernels" in made
    assert splice.spliced(made, tmp_path) == made
    older = splice.spliced(text.replace("kernels:", "kernels@2026-01-01-abacus-kernels:"), tmp_path)
    assert "| linear | 1 | 4.000 " in older


def test_a_cohort_that_nobody_measured_is_no_empty_table(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="has measured toast/cpu/b1/t1"):
        splice.spliced(TEXT, tmp_path)
