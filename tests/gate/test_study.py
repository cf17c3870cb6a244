"""The study of the gate's errors: its edits still fit the code, and its rates are exact."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tools.gate_study import tables
from tools.gate_study.run import Plan, begin
from tools.gate_study.variants import VARIANTS, WHOLE, Variant

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_edits_fit_the_code(variant: Variant, tmp_path: Path) -> None:
    for edit in variant.edits:
        target = tmp_path / edit.path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / edit.path, target)
        edit.apply(tmp_path)
        assert edit.new in target.read_text()


def test_a_stale_edit_is_named(tmp_path: Path) -> None:
    edit = VARIANTS["link order"].edits[0]
    (tmp_path / "setup.py").write_text("nothing")
    with pytest.raises(LookupError, match=r"mend tools/gate_study/variants\.py"):
        edit.apply(tmp_path)


@pytest.mark.parametrize(
    ("hits", "total", "said"),
    [(0, 300, "0 of 300 (0.0% [0.0, 1.2])"), (95, 100, "95 of 100 (95.0% [88.7, 98.4])"), (0, 0, "not measured yet")],
)
def test_rates_have_exact_intervals(hits: int, total: int, said: str) -> None:
    assert tables.rate(hits, total) == said


def test_a_plan_is_frozen(tmp_path: Path) -> None:
    begin(tmp_path / "study", Plan())
    begin(tmp_path / "study", Plan())
    with pytest.raises(SystemExit, match="frozen"):
        begin(tmp_path / "study", Plan(load=1))


PLAN = {
    "variants": {"comment": {}, "more": {"x": 3}, WHOLE: {"x": 100}},
    "works": {"x": "row"},
}


def _run(variant: str, verdict: str, ratio: float, tool: str = "gate") -> tables.Run:
    row = {"benchmark": "x", "metric": "latency", "verdict": verdict, "ratio": ratio}
    rows = [row | {"low": ratio - 0.01, "high": ratio + 0.01}]
    return {"tool": tool, "variant": variant, "verdict": verdict, "wall_s": 60.0, "rows": rows}


def test_tables_count_every_run() -> None:
    runs = [_run("comment", "PASS", 1.0)] * 3 + [_run("comment", "FAIL", 1.05)]
    runs += [_run("more", "FAIL", 1.03), _run("more", "UNDECIDED", 1.05), _run(WHOLE, "FAIL", 2.01)]
    text = tables.to_markdown(PLAN, runs)
    assert "| comment | 1 of 4" in text
    assert "| x: 3 × row | 4.00% | 1 of 2 (50.0% [1.3, 98.7]) | 0 | 1 | +4.00% | 2 of 2" in text
    assert (
        "slower by 3% or more 1 of 2 (50.0% [1.3, 98.7]), by 5% or more not measured yet. Intervals that hold: 2 of 2"
        in text
    )
    assert tables.to_markdown(PLAN, []) == ""


def test_what_work_costs() -> None:
    """A line that is known: 1% to do any, 2% each."""
    plan = PLAN | {"variants": {"some": {"x": 3}, "more": {"x": 5}, WHOLE: {"x": 100}}}
    runs = [_run("some", "FAIL", 1.07), _run("more", "FAIL", 1.11), _run(WHOLE, "FAIL", 3.01)]
    assert tables.cost(tables.added(plan, runs), "x", 100) == pytest.approx((0.01, 0.02))
    assert tables.cost(tables.added(plan, runs[2:]), "x", 100) is None


def test_tools_stand_side_by_side() -> None:
    """A rival that alarms on nothing is shown too at the limit at which it would not have."""
    runs = [_run("comment", "PASS", 1.0), _run("more", "FAIL", 1.03), _run("comment", "FAIL", 1.2, "asv")]
    runs += [_run("more", "FAIL", 1.15, "asv"), _run("more", "FAIL", 1.3, "asv"), _run(WHOLE, "FAIL", 2.0, "asv")]
    text = "\n".join(tables.compared(PLAN, runs))
    assert "| gate | its own | 0 of 1" in text
    assert "| asv | its own | 1 of 1" in text
    assert "| | 20.0%: no suite fails | 0 of 1 | 1 of 2" in text


def test_likeness_of_pairs_from_one_zygote() -> None:
    """Known by construction: half of the variance lies between zygotes; or none."""
    rng = np.random.default_rng(random.randrange(2**32))
    for between, low, high in ((1.0, 0.4, 0.6), (0.0, -0.1, 0.1)):
        logs = {}
        for row in range(300):
            luck = between * rng.standard_normal(3)
            logs[str(row)] = {str(pair): luck[pair // 4] + rng.standard_normal() for pair in range(12)}
        runs = [{"logs": logs, "zygotes": [1] * 4 + [2] * 4 + [3] * 4}]
        (sentence,) = tables._clusters(runs)
        found = re.search(r"correlation of ([+-]\d\.\d+) \(300 rows", sentence)
        assert found is not None
        assert low < float(found.group(1)) < high
    assert tables._clusters([{"logs": {"x": {"0": 0.1, "1": 0.2}}, "zygotes": [1, 2]}]) == []
