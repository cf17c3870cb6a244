"""The stopwatch over a simulated device."""

from __future__ import annotations

import pytest
import torch

from pyprod.gpu.timing import BATCH, Stopwatch
from pyprod.types import Mismatch
from tests.gpu.simulated import Cuda


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


def test_a_graph_is_timed_without_its_launches(cuda: Cuda) -> None:
    def call() -> torch.Tensor:
        cuda.launch(5.0)
        cuda.work(0.25)
        return torch.ones(3)

    watch = Stopwatch(call, cuda=cuda)
    assert watch.graph
    assert watch.sample(3, 10**9) == [250_000] * 3
    assert torch.equal(watch.result(), torch.ones(3))


def test_what_can_t_be_captured_is_timed_as_it_is(cuda: Cuda) -> None:
    cuda.capturable = False

    def call() -> int:
        cuda.launch(0.5)
        cuda.work(0.25)
        return 7

    watch = Stopwatch(call, cold=False, cuda=cuda)
    assert not watch.graph
    assert watch.sample(2, 10**9) == [750_000] * 2
    assert watch.result() == 7


def test_batches_end_with_the_time(cuda: Cuda) -> None:
    watch = Stopwatch(lambda: cuda.work(0.1), cuda=cuda)
    assert len(watch.sample(10**6, 0)) == BATCH
    assert len(watch.sample(BATCH + 1, 10**10)) == BATCH + 1


def test_work_on_another_stream_is_refused(cuda: Cuda) -> None:
    def call() -> None:
        cuda.work(0.1)
        cuda.waiting_s = 0.01

    with pytest.raises(Mismatch, match="work on another one"):
        Stopwatch(call, cuda=cuda)
