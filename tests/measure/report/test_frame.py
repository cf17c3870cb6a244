"""The derived table against values worked out by hand from the raw samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import synthetic

from pyprod.measure import statistics
from pyprod.measure.report import COLUMNS, summarize
from pyprod.measure.report.frame import order, verdict
from pyprod.types import Candidate, Failure, Measurement, PyprodError

NATIVE = Candidate("encoder", "native.int8", batch=8, threads=2)
BASE = Candidate("encoder", "eager.fp32", batch=8, threads=2)


def of(record, candidate, metric, replica=0):
    return [m for m in record if (m.candidate, m.metric, m.replica) == (candidate, metric, replica)]


def row(frame, candidate):
    (found,) = frame[frame["candidate"] == candidate.id].to_dict("records")
    return found


def latency(candidate, *rounds, replica=0):
    return [Measurement(candidate, "latency", "ns", tuple(s), i, replica) for i, s in enumerate(rounds)]


def accuracy(candidate, values, statistic="mean"):
    return Measurement(candidate, "accuracy", statistic, tuple(values), context={"statistic": statistic})


def test_a_row_per_candidate_and_a_column_per_name(record, frame):
    assert set(frame["candidate"]) == {m.candidate.id for m in record}
    assert frame["candidate"].is_unique
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {n: c.dtype for n, c in COLUMNS.items()}


def test_numbers_are_those_of_the_samples(record, frame):
    found = row(frame, NATIVE)
    pooled = np.concatenate([m.samples for m in of(record, NATIVE, "latency")]) / 1e6
    assert found["latency_p50_ms"] == pytest.approx(np.median(pooled))
    assert found["latency_p99_ms"] == pytest.approx(np.percentile(pooled, 99))
    assert (found["calls"], found["rounds"], found["speedup_rounds"]) == (200, 10, 10)
    medians = [{m.round: np.median(m.samples) for m in of(record, c, "latency")} for c in (BASE, NATIVE)]
    expected = statistics.ratio(*medians)
    assert (found["speedup"], found["speedup_low"], found["speedup_high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    rates = [m.samples[0] for m in of(record, NATIVE, "throughput")]
    assert found["throughput_per_s"] == np.median(rates)
    assert found["tokens_per_s"] == 128 * np.median(rates)
    assert found["artifact_mb"] == of(record, NATIVE, "artifact_size")[0].samples[0] / 1e6
    assert (found["sample"], found["numerics"]) == ("sentence", "int8")


def test_accuracy_of_a_form_holds_for_its_other_batches(record, frame):
    assert not of(record, NATIVE, "accuracy")  # scored at batch 1 only
    rows = frame[(frame["workload"] == "encoder") & (frame["backend"] == "native.int8")]
    assert len(rows) == 3
    assert rows["accuracy"].nunique() == 1
    assert rows["accuracy_difference_low"].iloc[0] < 0 < rows["accuracy_difference_high"].iloc[0]


def test_discordant_pairs_where_scores_are_right_or_wrong(frame):
    digits, encoder = (frame[frame["workload"] == w] for w in ("digits", "encoder"))
    static = digits[digits["backend"] == "onnxruntime.static_int8"].iloc[0]
    assert static["discordant_lost"] > static["discordant_won"]
    assert static["mcnemar_p"] < 1e-4
    assert static["accuracy_verdict"] == "lost"
    assert encoder["discordant_lost"].isna().all()


def test_aa_pair_marks_the_whole_cohort(frame):
    bad = frame[(frame["workload"] == "digits") & (frame["batch"] == 32)]
    assert set(bad["cohort_trust"]) == {"untrustworthy"}
    assert bad["cohort_aa_ratio"].iloc[0] == pytest.approx(1.08, abs=0.02)
    rest = frame.drop(bad.index)
    assert set(rest["cohort_trust"]) == {"trustworthy"}


def test_without_a_twin_or_common_rounds_nothing_is_trusted():
    alone = summarize(latency(BASE, [1e6], [1e6]))
    assert alone["cohort_trust"].tolist() == ["unchecked"]
    apart = [*latency(BASE, [1e6]), dataclasses.replace(latency(BASE, [1e6], replica=1)[0], round=5)]
    assert summarize(apart)["cohort_trust"].tolist() == ["unchecked"]


def test_a_failed_twin_is_noted_and_fails_nobody():
    failure = Failure("crash", "time", "killed by SIGSEGV")
    record = [*latency(BASE, [1e6], [1e6]), Measurement(BASE, "failure", "", (), replica=1, failure=failure)]
    found = row(summarize(record), BASE)
    assert (found["status"], found["cohort_trust"]) == ("ok", "unchecked")
    assert found["notes"] == "the A/A twin failed at time: killed by SIGSEGV"


def test_failures_are_rows_whatever_was_measured_before_them(frame):
    kinds = {"unavailable", "timeout", "error", "mismatch", "crash", "out_of_memory"}
    assert set(frame["status"]) == {"ok", *kinds}
    for _, failure, _, batches in synthetic.FAILURES:
        assert (frame["failure_message"] == failure.message).sum() == len(batches)
    late = [*latency(NATIVE, [1e6]), Measurement(NATIVE, "failure", "", (), failure=Failure("crash", "time", "died"))]
    found = row(summarize(late), NATIVE)
    assert (found["status"], found["latency_p50_ms"], found["pareto"]) == ("crash", 1.0, False)


def test_not_timed_is_unfinished_and_not_missing():
    found = row(summarize([Measurement(NATIVE, "artifact_size", "bytes", (1e6,))]), NATIVE)
    assert found["status"] == "unfinished"
    assert found["failure_message"]


@pytest.mark.parametrize("metric", ["latency", "accuracy", "peak_rss"])
def test_nan_makes_the_row_invalid_and_stays_nan(metric):
    measured = [*latency(BASE, *[[2e6, 2e6]] * 3), *latency(NATIVE, *[[1e6, 1e6]] * 3)]
    measured += [
        accuracy(BASE, [1.0, 0.0]),
        accuracy(NATIVE, [1.0, 0.0]),
        Measurement(NATIVE, "peak_rss", "bytes", (1e6,)),
    ]
    spoiled = [
        dataclasses.replace(m, samples=(float("nan"), *m.samples[1:]))
        if m.candidate == NATIVE and m.metric == metric and m.round == 0
        else m
        for m in measured
    ]
    found = row(summarize(spoiled), NATIVE)
    assert found["status"] == "invalid"
    assert found["failure_message"].startswith(f"{metric}: 1 of")
    columns = {"latency": ["latency_p50_ms", "speedup"], "accuracy": ["accuracy"], "peak_rss": ["peak_rss_mb"]}
    assert np.isnan([found[name] for name in columns[metric]]).all()
    assert not found["pareto"]
    assert row(summarize(measured), NATIVE)["status"] == "ok"


def test_two_runs_in_one_report_are_refused():
    with pytest.raises(PyprodError, match=r"encoder/base/native\.int8/cpu/b8/t2 has a round twice"):
        summarize(latency(NATIVE, [1e6]) * 2)


def test_without_a_baseline_there_is_no_comparison():
    found = row(summarize([*latency(NATIVE, *[[1e6]] * 5), accuracy(NATIVE, [1.0, 0.0])]), NATIVE)
    assert np.isnan([found["speedup"], found["accuracy_difference"]]).all()
    assert (found["accuracy"], found["accuracy_verdict"]) == (0.5, "")


def test_recipes_are_compared_with_the_base_recipe():
    pruned = dataclasses.replace(BASE, recipe="prune50")
    frame = summarize([*latency(BASE, *[[2e6]] * 3), *latency(pruned, *[[1e6]] * 3)])
    found = row(frame, pruned)
    assert (found["speedup"], found["form"], found["baseline"]) == (pytest.approx(2.0), "prune50/eager.fp32", False)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.005, 0.02, "kept"), (-0.02, 0.02, "undecided"), (-0.03, -0.02, "lost"), (float("nan"),) * 2 + ("undecided",)],
)
def test_verdict_on_accuracy(low, high, expected):
    assert verdict(statistics.Estimate(0.0, low, high, 9), 0.01, higher_is_better=True) == expected
    assert verdict(statistics.Estimate(0.0, -high, -low, 9), 0.01, higher_is_better=False) == expected


def test_pareto_front_is_checked_by_hand():
    """Equal accuracy: fast and small win. torchao is slower and larger than native, openvino slower and smaller."""
    record = []
    for backend, ms, size in (
        ("eager.fp32", 4, 9),
        ("native.int8", 1, 5),
        ("torchao.int8", 2, 5),
        ("openvino.int8", 2, 3),
    ):
        candidate = dataclasses.replace(BASE, backend=backend)
        record += [*latency(candidate, [ms * 1e6]), Measurement(candidate, "artifact_size", "bytes", (size * 1e6,))]
        record.append(accuracy(candidate, [1.0, 0.0, 1.0, 1.0]))
    frame = summarize(record)
    assert set(frame["backend"][frame["pareto"]]) == {"native.int8", "openvino.int8"}


def test_perplexity_wants_less():
    losses = [0.1, 0.2, 0.3, 0.4] * 10
    record = []
    for candidate, shift in ((BASE, 0.0), (NATIVE, 0.5)):
        record += [*latency(candidate, [1e6]), Measurement(candidate, "artifact_size", "bytes", (1.0,))]
        record.append(accuracy(candidate, [v + shift for v in losses], "perplexity"))
    frame = summarize(record)
    assert row(frame, NATIVE)["accuracy_verdict"] == "lost"
    assert frame["backend"][frame["pareto"]].tolist() == ["eager.fp32"]


def test_order_is_best_first_and_keeps_cohorts_together(frame):
    for sort, column, up in [("throughput", "throughput_per_s", False), ("size", "artifact_mb", True)]:
        for _, cohort in order(frame, sort).groupby(["workload", "batch"]):
            values = cohort[column].dropna()
            assert values.is_monotonic_increasing if up else values.is_monotonic_decreasing
            assert cohort[column].isna().tolist() == sorted(cohort[column].isna())


def test_unknown_column_suggests_near_names(frame):
    with pytest.raises(PyprodError, match="unknown column 'latnecy' to sort by; did you mean 'latency'"):
        order(frame, "latnecy")
    with pytest.raises(PyprodError, match="there are: latency, throughput"):
        order(frame, "qqqq")


def test_order_of_the_measurements_does_not_matter(record, frame):
    shuffled = [record[i] for i in np.random.default_rng(0).permutation(len(record))]
    pd.testing.assert_frame_equal(summarize(shuffled), frame)


def test_nothing_measured_is_an_empty_frame():
    assert list(summarize([]).columns) == list(COLUMNS)
