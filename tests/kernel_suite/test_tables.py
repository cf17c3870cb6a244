"""What the suite's tables say of measurements whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from pyprod.kernel_suite import report
from pyprod.kernel_suite.frame import steps, summarize
from pyprod.types import Candidate, Failure, Measurement

#: 100 GOP/s, 10 GB/s at any size.
CEILINGS: dict[str, Any] = {
    "rows": [
        {"kind": "arithmetic", "name": "int8.abacus", "threads": 1, "unit": "op/s", "samples": [1e11]},
        {"kind": "memory", "name": "read", "threads": 1, "unit": "B/s", "bytes": 1024, "samples": [1e10]},
    ]
}


def latencies(
    backend: str, rounds: list[float], batch: int = 1, replica: int = 0, problem: str = "linear/n768-k768"
) -> list[Measurement]:
    """Median µs by round."""
    candidate = Candidate(problem, backend, batch=batch)
    return [Measurement(candidate, "latency", "ns", (us * 1e3,) * 3, i, replica) for i, us in enumerate(rounds)]


def ours(measurements: list[Measurement]) -> Any:
    frame = summarize(measurements, {"ceilings": CEILINGS})
    (row,) = frame[frame["ours"]].to_dict("records")
    return row


def test_the_ratio_is_to_the_fastest_peer_paired_by_round() -> None:
    drift = [1.0, 1.5, 1.1, 2.0, 1.2]
    row = ours(
        [
            *latencies("native.int8", [100 * d for d in drift]),
            *latencies("native.int8", [102 * d for d in drift], replica=1),
            *latencies("eager.fp32", [400 * d for d in drift]),
            *latencies("onnxruntime.dynamic", [130 * d for d in drift]),
        ]
    )
    assert row["best_peer"] == "onnxruntime.dynamic"
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx((1.3, 1.3, 1.3))
    assert row["aa_ratio"] == pytest.approx(1.02)


def test_a_peer_with_a_wrong_result_is_never_the_best() -> None:
    wrong = Candidate("linear/n768-k768", "onnxruntime.dynamic")
    failure = Measurement(wrong, "failure", "", (), failure=Failure("mismatch", "check", "relative error 2"))
    slow = latencies("eager.fp32", [400.0] * 3)
    row = ours([*latencies("native.int8", [100.0] * 3), *latencies(wrong.backend, [1.0] * 3), failure, *slow])
    assert row["best_peer"] == "eager.fp32"
    assert row["ratio"] == pytest.approx(4.0)


def test_the_roofline_is_the_longer_of_arithmetic_and_memory() -> None:
    few = ours(latencies("native.int8", [100.0] * 3))
    bytes_ = 768 * 4 + 768 * 768 + 8 * 768 + 768 * 4
    assert few["roofline_us"] == pytest.approx(bytes_ / 1e10 * 1e6)
    assert few["roofline_share"] == pytest.approx(bytes_ / 1e10 / 100e-6)
    many = ours(latencies("native.int8", [20_000.0] * 3, batch=2048))
    assert many["roofline_us"] == pytest.approx(2 * 2048 * 768 * 768 / 1e11 * 1e6)
    assert many["gops"] == pytest.approx(2 * 2048 * 768 * 768 / 20e-3 * 1e-9)


def test_steps_are_between_neighboring_numbers_of_rows() -> None:
    measured = [*latencies("native.int8", [10.0] * 3), *latencies("native.int8", [48.0] * 3, batch=4)]
    found = steps(summarize([*measured, *latencies("native.int8", [72.0] * 3, batch=8)], {}))
    assert found[["before", "after"]].values.tolist() == [[1, 4], [4, 8]]
    assert found["step"].tolist() == pytest.approx([1.2, 0.75])


def test_the_ladder_shows_what_each_rung_brings() -> None:
    """A rung without a number is stepped over; the ladder is no peer of anything."""
    problem = "ladder/n768-k768"
    measured = [
        *latencies("native.int8", [10.0] * 3, problem=problem),
        *latencies("ladder.naive", [400.0] * 3, problem=problem),
        *latencies("ladder.packed", [50.0] * 3, problem=problem),
        *latencies("ladder.packed", [90.0] * 3, batch=32, problem=problem),
        *latencies("native.int8", [30.0] * 3, batch=32, problem=problem),
    ]
    (table,) = report.tables(summarize(measured, {}))
    assert table.title == "ladder, 1 thread, 768x768: what each step brings"
    assert table.headings[1:] == ("M = 1", "M = 32")
    assert table.rows == [
        ("ladder.naive", "400", "–"),
        ("ladder.packed", "50.0 (8.00x)", "90.0"),
        ("native.int8", "10.0 (5.00x)", "30.0 (3.00x)"),
    ]


def test_every_format_shows_the_same_cells() -> None:
    measured = [*latencies("native.int8", [100.0] * 3), *latencies("eager.fp32", [250.0] * 3)]
    environment = {"ceilings": CEILINGS, "cpu": {"model": "Abacus <9000>"}}
    frame = summarize(measured, environment)
    text = report.to_text(frame)
    assert max(map(len, text.splitlines())) <= 100
    page = report.to_html(frame, environment, {"command": ["pyprod", "bench"]})
    assert "Abacus &lt;9000&gt;" in page
    for shown in (text, page, report.to_markdown(frame, environment, {})):
        assert "2.50 (M=1 768x768)" in shown
        assert "BERT-base 768x768" in shown
