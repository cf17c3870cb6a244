"""The comparison end to end, and the rows that it is done on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pyprod.export import parity
from tests.export.toy import SEQUENCE, images, tokens

AXES = ({0: "batch", 1: "sequence"}, {0: "batch", 1: "sequence"})


@pytest.mark.parametrize(
    ("got", "want", "error"),
    [
        ([[3.0, 4.0]], [[0.0, 0.0]], 2.5),
        ([[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 2.0]], 1.0),
        ([[math.nan, 1.0]], [[0.0, 1.0]], math.inf),
        ([[0.0, 1.0]], [[math.nan, 1.0]], math.inf),
        ([[math.nan, 1.0]], [[math.nan, 1.0]], 0.0),
        ([[math.inf, 1.0]], [[math.inf, 1.0]], 0.0),
        ([[-math.inf, 1.0]], [[math.inf, 1.0]], math.inf),
        ([[1.0, 1.0, 1.0]], [[1.0, 1.0]], math.inf),
    ],
)
def test_the_measure(got: list[list[float]], want: list[list[float]], error: float) -> None:
    assert parity.difference(torch.tensor(got), torch.tensor(want), scale=2.0) == error


def test_an_empty_output_is_equal() -> None:
    assert parity.difference(torch.empty(0, 4), torch.empty(0, 4), 1.0) == 0.0


def test_one_reader_that_fails_stops_no_other() -> None:
    def wrong(inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0] + (1.0 if len(inputs[0]) == 3 else 0.0)

    def broken(inputs: tuple[Tensor, ...]) -> Tensor:
        raise RuntimeError("no memory\nand more")

    calls = [(torch.ones(n, 2),) for n in (1, 3, 2)]
    readers = {"right": lambda inputs: inputs[0], "wrong": wrong, "broken": broken}
    wants = parity.answers(nn.Identity(), calls)
    found = {p.reader: p for p in parity.compare(wants, readers, calls, "real", scale=1.0)}
    assert found["right"].holds
    assert found["right"].error == 0
    assert (found["wrong"].holds, found["wrong"].shape) == (False, "[3, 2]")
    assert found["wrong"].error == pytest.approx(math.sqrt(2))
    assert not found["broken"].holds
    assert "RuntimeError: no memory" in str(found["broken"])


def test_nan_from_a_reader_never_passes() -> None:
    x = torch.ones(2, 2)
    found = parity.compare([x], {"nan": lambda i: i[0] * math.nan}, [(x,)], "real", 1.0)
    assert not found[0].holds


def test_real_rows_come_once_each_in_batches_of_several_sizes() -> None:
    calls = parity.real((torch.arange(60)[:, None],), ({0: "batch"},), most=40)
    assert torch.equal(torch.cat([c[0] for c in calls]).flatten(), torch.arange(40))
    assert {len(c[0]) for c in calls} >= {1, 2, 7, 16}
    for most in (1, 2, 3, 4, 10, 26, 27, 40):
        assert parity.batches(most) == len(parity.real((torch.arange(60)[:, None],), ({0: "batch"},), most))
    (fixed,) = parity.real((torch.arange(4)[:, None],), ({},), most=40)
    assert len(fixed[0]) == 4


def test_random_rows_have_the_open_sizes_and_values_that_occur() -> None:
    ids, mask = tokens(6)
    calls = list(parity.random((ids, mask), AXES, (SEQUENCE,), 30))
    assert all(a.shape == b.shape for a, b in calls)
    assert calls[0][0].shape == (1, 1)
    assert calls[1][0].shape == (8, 12)
    assert len({tuple(a.shape) for a, _ in calls}) > 15
    assert set(torch.cat([b.flatten() for _, b in calls]).tolist()) == {0, 1}
    assert set(torch.cat([a.flatten() for a, _ in calls]).tolist()) <= set(ids.flatten().tolist())
    again = list(parity.random((ids, mask), AXES, (SEQUENCE,), 30))
    assert all(torch.equal(x[0], y[0]) for x, y in zip(calls, again, strict=True))


def test_random_numbers_are_like_the_real_ones_at_their_place() -> None:
    x = torch.randn(500, 2) * torch.tensor([1.0, 5.0]) + torch.tensor([10.0, 0.0])
    drawn = torch.cat([c[0] for c in parity.random((x,), ({0: "batch"},), (), 400)])
    assert torch.allclose(drawn.mean(0), x.mean(0), atol=0.6)
    assert torch.allclose(drawn.std(0), x.std(0), rtol=0.15)


def test_rows_for_the_steps_are_real_and_random() -> None:
    (x,) = parity.mixed(images(), open_batch=True)
    assert torch.equal(x[:2], images()[0][:2])
    assert x.shape == (4, 3, 8, 8)
    assert not torch.equal(x[2:], images()[0][2:4])
    assert torch.equal(parity.mixed(images(), open_batch=False)[0], images()[0])


def test_the_scale_leaves_out_what_is_not_finite() -> None:
    assert parity.norm([torch.tensor([[3.0, 4.0], [math.nan, 1.0]])]) == 5.0
    assert parity.norm([torch.zeros(2, 2)]) == 1.0
    assert parity.norm([torch.full((2, 2), math.nan)]) == 1.0


def test_a_twin_tells_how_far_rounding_alone_goes() -> None:
    class Stairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(64, 64) - 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.round(x @ self.weight * 1e4)

    model, calls = Stairs(), [(torch.rand(40, 64),)]
    twin = parity.jittered(model)
    assert isinstance(twin, Stairs)
    off = (twin.weight / model.weight - 1).abs()
    assert 0 < off.max() < 2**-22
    wants = parity.answers(model, calls)
    assert parity.spread(wants, model, calls, 1.0) == 0
    assert 1 <= parity.spread(wants, twin, calls, 1.0) < 8
    assert parity.spread([], twin, [], 1.0) == 0
