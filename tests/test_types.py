"""The values every room shares: what they refuse, and that what is written is what is read back."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyprod.types import Candidate, Failure, Measurement, QuantSpec, TensorQuant, Unavailable

names = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)
candidates = st.builds(
    Candidate,
    workload=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),  # a path may hold slashes
    backend=names,
    recipe=names,
    device=names,
    batch=st.integers(1),
    threads=st.integers(1),
)
failures = st.builds(
    Failure, kind=st.sampled_from(["error", "crash"]), stage=names, message=st.text(), detail=st.text()
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
measurements = st.builds(
    Measurement,
    candidate=candidates,
    metric=names,
    unit=st.text(),
    samples=st.lists(numbers).map(tuple),
    round=st.integers(0),
    replica=st.sampled_from([0, 1]),
    failure=st.none() | failures,
    context=st.dictionaries(st.text(), st.lists(numbers)),
    taken_at=st.just("2026-01-01T00:00:00+00:00"),
)
tensors = st.builds(
    TensorQuant,
    granularity=st.sampled_from(["per_tensor", "per_channel", "per_token"]),
    bits=st.sampled_from([4, 8]),
    scale=st.lists(numbers).map(tuple),
    zero_point=st.lists(st.integers(-128, 127)).map(tuple),
)


@given(candidates)
def test_an_id_says_it_all(candidate: Candidate) -> None:
    assert Candidate.from_id(candidate.id) == candidate


def test_an_id_reads_well() -> None:
    candidate = Candidate("encoder", "eager.fp32", batch=8)
    assert candidate.id == "encoder/base/eager.fp32/cpu/b8/t1"
    assert candidate.form == ("encoder", "base", "eager.fp32", "cpu")
    assert candidate.cohort == ("encoder", "cpu", 8, 1)


@pytest.mark.parametrize("text", ["", "encoder", "encoder/base/eager/cpu/8/1", "a/b/c/d/b1/tx", "a/b/c/d/b0/t1"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(ValueError):
        Candidate.from_id(text)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": 0}, {"device": ""}, {"recipe": "a/b"}, {"backend": "a/b"}])
def test_what_is_no_candidate(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Candidate(**{"workload": "w", "backend": "eager.fp32", **wrong})  # type: ignore[arg-type]


@given(measurements)
def test_a_measurement_survives_the_record(measurement: Measurement) -> None:
    assert Measurement.from_json(json.loads(json.dumps(measurement.to_json()))) == measurement


@given(st.builds(QuantSpec, st.dictionaries(st.text(), tensors), st.dictionaries(st.text(), tensors)))
def test_a_quantspec_survives_a_file(spec: QuantSpec) -> None:
    assert QuantSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_smoothing_survives_a_file_and_older_files_have_none() -> None:
    quant = TensorQuant("per_token", smoothing=(0.5, 3.0))
    data = json.loads(json.dumps(QuantSpec({}, {"up": quant}).to_json()))
    assert QuantSpec.from_json(data).activations == {"up": quant}
    del data["activations"]["up"]["smoothing"]
    assert QuantSpec.from_json(data).activations == {"up": TensorQuant("per_token")}


@pytest.mark.parametrize("smoothing", [(0.0,), (-1.0,), (1.0, math.inf), (math.nan,)])
def test_what_cannot_smooth(smoothing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="finite and positive"):
        TensorQuant("per_token", smoothing=smoothing)
    with pytest.raises(ValueError, match="per_token, not per_tensor"):
        TensorQuant("per_tensor", scale=(1.0,), smoothing=(1.0,))


def test_asymmetric_is_of_what_is_found_at_run_time() -> None:
    quant = TensorQuant("per_token", asymmetric=True)
    assert (
        QuantSpec.from_json(json.loads(json.dumps(QuantSpec({}, {"up": quant}).to_json()))).activations["up"] == quant
    )
    for others in ({"granularity": "per_tensor"}, {"granularity": "per_token", "scale": (1.0,)}):
        with pytest.raises(ValueError, match="per_token whose scale is found at run time"):
            TensorQuant(**others, asymmetric=True)


def test_unavailable_says_why_and_what_to_do() -> None:
    assert str(Unavailable("openvino is not installed", "pip install openvino")) == (
        "openvino is not installed (pip install openvino)"
    )
    assert str(Unavailable("no NVIDIA GPU")) == "no NVIDIA GPU"
