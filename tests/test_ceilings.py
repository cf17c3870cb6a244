"""What holds of measured ceilings on any machine, however busy; and the roofline on figures that are made up."""

from __future__ import annotations

import json
import math

import pytest

from pyprod import _probe, ceilings, cli, environment

MADE_UP = {
    "rows": [
        {"kind": "clock", "name": "clock", "threads": 1, "unit": "Hz", "samples": [3e9, 1e9, 2e9]},
        {"kind": "arithmetic", "name": "int8.avx2", "threads": 1, "unit": "op/s", "samples": [100.0, 90.0, 10.0]},
        {"kind": "arithmetic", "name": "int8.amx", "threads": 1, "unit": "op/s", "samples": [4000.0]},
        {"kind": "arithmetic", "name": "int8.amx", "threads": 2, "unit": "op/s", "samples": [8000.0]},
        *(
            {"kind": "memory", "name": name, "threads": 1, "unit": "B/s", "bytes": size, "pages": pages, "samples": [v]}
            for name, size, pages, v in [
                ("read", 1 << 10, "huge", 80.0),
                ("read", 1 << 20, "huge", 30.0),
                ("read", 1 << 20, "4K", 20.0),
                ("read_prefetch", 1 << 20, "huge", 40.0),
                ("fill", 1 << 20, "huge", 5.0),
            ]
        ),
    ]
}


def test_a_peak_is_a_median_of_one_loop_or_the_best_of_a_family() -> None:
    assert ceilings.peak(MADE_UP, "int8.avx2") == 90
    assert ceilings.peak(MADE_UP, "int8") == 4000
    assert ceilings.peak(MADE_UP, "int8", threads=2) == 8000
    with pytest.raises(LookupError, match=r"fp32 is none of int8\.avx2, int8\.amx"):
        ceilings.peak(MADE_UP, "fp32")
    with pytest.raises(LookupError, match=r"with 3 threads, only with \[1, 2\]"):
        ceilings.peak(MADE_UP, "int8", threads=3)


def test_bandwidth_takes_the_best_form_and_lies_between_its_neighbors() -> None:
    assert ceilings.bandwidth(MADE_UP, 1 << 20) == 40
    assert ceilings.bandwidth(MADE_UP, 1 << 15) == pytest.approx(60)  # halfway, in powers of two
    assert ceilings.bandwidth(MADE_UP, 1) == 80
    assert ceilings.bandwidth(MADE_UP, 1 << 40) == 40
    assert ceilings.bandwidth(MADE_UP, 1 << 20, pattern="fill") == 5
    with pytest.raises(LookupError, match="'write'"):
        ceilings.bandwidth(MADE_UP, 1, pattern="write")
    with pytest.raises(LookupError, match="'copy'"):
        ceilings.bandwidth(MADE_UP, 1, pattern="copy")


def test_a_roofline_is_the_longer_of_the_two() -> None:
    assert ceilings.roofline_seconds(MADE_UP, ops=4000, bytes=20, working_set=1 << 20) == 1
    assert ceilings.roofline_seconds(MADE_UP, ops=4000, bytes=400, working_set=1 << 20) == 10
    assert ceilings.roofline_seconds(MADE_UP, ops=0, bytes=80) == 1
    assert ceilings.roofline_seconds(MADE_UP, ops=90, bytes=0, arithmetic="int8.avx2") == 1
    assert ceilings.roofline_seconds(MADE_UP, 0, 0) == 0


@pytest.fixture(scope="module")
def printed() -> dict[str, object]:
    """Every loop, once, through little memory."""
    found = ceilings.ceilings(repetitions=1, working_sets=(4 << 20,))
    return json.loads(json.dumps(found))


def test_every_figure_is_there_for_one_thread_and_for_all(printed: dict[str, list[dict[str, object]]]) -> None:
    rows, everyone = printed["rows"], len(environment.allowed_cpus())
    assert printed["cpus"] == environment.cpus(everyone)
    for threads in {1, everyone}:
        names = [row["name"] for row in rows if row["threads"] == threads]
        assert {*_probe.arithmetics(), *_probe.memory_patterns(), "parallel_region"} <= set(names)
    for row in rows:
        assert len(row["samples"]) == 1
        assert all(math.isfinite(sample) and sample > 0 for sample in row["samples"]), row
    for row in rows:
        if row["kind"] == "clock":
            assert row["samples"][0] < 1e10
    text = ceilings.to_text(printed)
    assert all(str(row["name"]) in text for row in rows)


def test_loops_run_as_fast_as_the_clock_lets_them_and_no_faster(
    printed: dict[str, list[dict[str, object]]],
) -> None:
    """A loop that was optimized away is out of all proportion; one that is disturbed is only slow.

    No CPU so far does more a cycle and core than 2 vectors of 64 multiply-adds, or one tile product in 16 cycles.
    """
    most = {"int8.amx": 2048, "bf16.amx": 1024, "int8.avx2": 64, "fp32.avx512": 64, "fp32.avx2": 32}
    for row in printed["rows"]:
        if row["kind"] == "arithmetic" and row["threads"] == 1:
            assert row["samples"][0] < 1.2 * most.get(row["name"], 256) * 6e9, row
        if row["kind"] == "memory":
            assert row["samples"][0] < 2 * 64 * 2 * 6e9 * row["threads"], row


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="int7 is not one of those this CPU can run: clock"):
        _probe.arithmetic_rates("int7", [0], 1, 0)
    with pytest.raises(ValueError, match="repetitions must be >= 1, got 0"):
        _probe.arithmetic_rates("clock", [0], 0, 0)
    with pytest.raises(ValueError, match="cpus must not be empty"):
        _probe.arithmetic_rates("clock", [], 1, 0)
    with pytest.raises(RuntimeError, match="can't pin a thread"):
        _probe.arithmetic_rates("clock", [1_000], 1, 0)
    if "read" in _probe.memory_patterns():
        with pytest.raises(ValueError, match="bytes must be at least"):
            _probe.memory_rates("read", 100, False, environment.cpus(1), 1, 0)


def test_the_verb_says_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["env", "--help"])
    assert "--ceilings" in capsys.readouterr().out
