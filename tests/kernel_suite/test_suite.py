"""The suite end to end: real peers, real processes, two small problems; what was measured is not measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyprod import bench, cli
from pyprod.kernel_suite import frame, peers, problems, report, run
from pyprod.measure import store
from pyprod.measure.heat import Settings
from pyprod.types import Candidate, Failure, Measurement, PyprodError
from tests.measure.test_heat import Watch

QUICK = Settings(rounds=3, slice_s=0.002, max_samples=5, timeout_s=60)
WORKLOADS = ("linear/n33-k70", "linear/n64-k32")
BACKENDS = ("native.int8", "eager.fp32")
CHOSEN = tuple(Candidate(w, b, batch=4) for w in WORKLOADS for b in BACKENDS)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = bench.Plan(CHOSEN, QUICK).to_json() | {"suite": run.NAME}
    path = store.create(tmp_path_factory.mktemp("records"), "suite", {"ceilings": CEILINGS}, plan)
    run.resume(path, Watch())
    return path


def _row(kind: str, name: str, unit: str, rate: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "threads": 1, "unit": unit, "samples": [rate]} | more


CEILINGS = {
    "rows": [
        _row("arithmetic", "int8.avx2", "op/s", 1e12),
        *(_row("memory", name, "B/s", 1e10, bytes=1 << 20, pages="huge") for name in ("read", "copy")),
    ]
}


def test_every_peer_of_every_problem_has_a_checked_row(measured: Path) -> None:
    found = store.read(measured)
    rows = frame.summarize(found.measurements, found.environment)
    assert sorted(rows["candidate"]) == sorted(c.id for c in CHOSEN)
    assert set(rows["status"]) == {"ok"}
    assert (rows["time_us"] > 0).all()
    assert (rows["relative_error"] < 0.03).all()
    ours = rows[rows["ours"]]
    assert set(ours["best_peer"]) == {"eager.fp32"}
    assert ours["aa_ratio"].notna().all()
    least = max(2 * 4 * 33 * 70 / 1e12, problems.module("linear").cost(4, 33, 70).bytes / 1e10) * 1e6
    assert ours.set_index("problem")["roofline_us"]["linear/n33-k70"] == pytest.approx(least)


def test_nothing_is_measured_twice(measured: Path) -> None:
    before = (measured / store.MEASUREMENTS).read_bytes()
    run.resume(measured, Watch())
    assert (measured / store.MEASUREMENTS).read_bytes() == before


def test_a_problem_that_was_cut_short_is_measured_again_in_new_rounds(measured: Path, tmp_path: Path) -> None:
    whole = store.read(measured)
    kept = [m for m in whole.measurements if m.candidate.workload == WORKLOADS[0] or m.round == 0]
    path = store.create(tmp_path, "cut", whole.environment, whole.plan)
    with store.Writer(path) as writer:
        for m in kept:
            writer.append(m)
    run.resume(path, Watch())
    more = store.read(path).measurements[len(kept) :]
    assert {m.candidate.workload for m in more} == {WORKLOADS[1]}
    assert {m.round for m in more if m.metric == "latency"} == {1, 2, 3}


def test_the_report_says_the_same_in_every_format(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(measured)]) == 0
    text = capsys.readouterr().out
    assert "linear, 1 thread: pyprod against the best peer of each problem; A/A" in text
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert cli.main(["report", str(measured), "--json"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert len(parsed["rows"]) == len(CHOSEN)
    assert [(m["rows"], m["n"]) for m in parsed["geometric_means"]] == [(None, 2), (4, 2)]
    for format in ("md", "csv", "html"):
        assert cli.main(["report", str(measured), "--format", format]) == 0
        assert "eager.fp32" in (measured / f"report.{format}").read_text().replace("\\", "")
    capsys.readouterr()
    assert cli.main(["report", str(measured), "--format", "parquet"]) == 2
    assert "no report 'parquet'; there are: csv, html, json, md, txt" in capsys.readouterr().err


def latencies(backend: str, microseconds: list[float], workload: str = "linear/n8-k8") -> Iterator[Measurement]:
    for number, value in enumerate(microseconds):
        yield Measurement(Candidate(workload, backend), "latency", "ns", (value * 1e3,) * 3, number)


def test_the_virtual_best_is_the_fastest_peer_of_each_problem() -> None:
    taken = [
        *latencies("native.int8", [10, 20, 10, 10, 10]),
        *latencies("eager.fp32", [30, 60, 30, 30, 30]),
        *latencies("eager.bf16", [20, 40, 20, 20, 20]),
        *latencies("native.int8", [10] * 5, "linear/n9-k9"),
        *latencies("eager.fp32", [5] * 5, "linear/n9-k9"),
        *latencies("eager.bf16", [8] * 5, "linear/n9-k9"),
    ]
    rows = frame.summarize(taken, {})
    ours = rows[rows["ours"]].set_index("problem")
    assert list(ours["best_peer"]) == ["eager.bf16", "eager.fp32"]
    assert list(ours["ratio"]) == pytest.approx([2.0, 0.5])
    assert list(ours["ratio_low"]) == pytest.approx([2.0, 0.5])  # the drift of round 1 hits both alike
    mean = frame.mean_ratio(rows[rows["ours"]])
    assert (mean.value, mean.low, mean.high, mean.n) == (pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), 2)
    assert ours["roofline_us"].isna().all()
    peers_ = rows[rows["peer"] == "eager.fp32"]
    assert frame.mean_ratio(peers_).value == pytest.approx((20 / 30) ** 0.5)


def test_a_failure_is_a_row_and_never_the_best() -> None:
    wrong = Candidate("linear/n8-k8", "eager.bf16")
    taken = [
        *latencies("native.int8", [10] * 3),
        *latencies("eager.fp32", [30] * 3),
        *latencies("eager.bf16", [1] * 3),
        Measurement(wrong, "failure", "", (), failure=Failure("crash", "time", "killed by SIGSEGV")),
    ]
    rows = frame.summarize(taken, {}).set_index("peer")
    assert rows.loc["eager.bf16", ["status", "reason"]].tolist() == ["crash", "killed by SIGSEGV"]
    assert rows["best_peer"]["native.int8"] == "eager.fp32"
    assert "1 crash" in report.to_text(frame.summarize(taken, {}))


def test_nothing_measured_says_so() -> None:
    assert report.to_text(frame.summarize([], {})) == "nothing was measured\n"


def test_selection_narrows_by_pattern_peer_rows_and_threads() -> None:
    chosen = run.select(["linear/n384-*"], backend_names=["native", "eager.bf16"], batches=[8], threads=[1])
    names = [c.id for c in chosen]
    assert "linear/n384-k1536/base/native.int8/cpu/b8/t1" in names
    assert len(names) == 4
    with pytest.raises(PyprodError, match="unknown peer 'nativ'; did you mean"):
        run.select(backend_names=["nativ"])
    with pytest.raises(PyprodError, match="unknown candidate"):
        run.select(["conv/*"])


@pytest.mark.parametrize("kind", problems.kinds())
def test_every_kind_fits_its_contract(kind: str) -> None:
    module = problems.module(kind)
    for sizes in module.SIZES:
        assert problems.parse(problems.name(kind, sizes)) == (kind, dict(sizes))
        assert module.cost(8, **sizes).bytes > 0
    done = {name for name, variant, _ in peers.known() if variant and kind in variant.kinds}
    assert set(module.OURS) < done


@pytest.mark.parametrize("name", ["linear", "linear/768", "bilinear/n1-k1", "linear/n-k1"])
def test_what_is_no_problem_is_refused(name: str) -> None:
    with pytest.raises(PyprodError, match="not a problem"):
        problems.parse(name)


def test_the_suite_takes_no_option_of_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["bench", "--suite", "kernels", "--workload", "digits", "--out", str(tmp_path)]) == 2
    assert "narrow it by patterns" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
