"""Cold weights: as many copies as were promised, each of them used in turn."""

from __future__ import annotations

import pytest
import torch

from pyprod.kernel_suite.problems import linear, linear_cold
from pyprod.kernel_suite.subject import _rotating, payload, subject
from pyprod.types import Candidate


@pytest.mark.parametrize("sizes", linear_cold.SIZES)
def test_copies_exceed_no_limit(sizes: dict[str, int]) -> None:
    bytes_ = sizes["n"] * sizes["k"]
    copies = (linear_cold.working_set(1, **sizes) - linear_cold.cost(1, **sizes).bytes) // bytes_ + 1
    assert 2 <= copies <= linear_cold.MOST_COPIES
    assert copies == 2 or copies * bytes_ <= linear_cold.MEMORY


def test_copies_take_turns() -> None:
    call = _rotating([lambda: "a", lambda: "b", lambda: "c"])
    assert [call() for _ in range(7)] == list("abcabca")


def test_a_cold_problem_has_its_weights_as_often_as_it_says() -> None:
    threads = torch.get_num_threads()
    candidate = Candidate("linear_cold/n31-k4097", "native.int8", batch=4, threads=threads)
    cold = subject(payload(candidate))
    with torch.no_grad():  # a worker's process switches gradients off for good
        cold.build()
        (error, _) = cold.check()
    assert error.samples[0] < linear.TOLERANCE["int8"]
    assert len(cold._prepared) == linear_cold.ColdLinear(31, 4097).copies == linear_cold.MOST_COPIES
