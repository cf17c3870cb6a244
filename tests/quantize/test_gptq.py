"""GPTQ against optimal brain surgery spelled out, and what a rounded weight promises."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from pyprod.nn import convert, dynamic_quantspec, int8_weight
from pyprod.quantize import ptq
from pyprod.quantize.gptq import _DAMPING, round_weights, rounded, second_moments
from pyprod.quantize.simulate import fake_quantized_weight
from pyprod.step import Context, Made
from pyprod.types import PyprodError, QuantSpec, TensorQuant
from pyprod.workloads import Workload

PER_TOKEN = TensorQuant("per_token")
SCHEMES = (
    TensorQuant("per_channel"),
    TensorQuant("per_channel", 4),
    TensorQuant("per_tensor", 3),
    TensorQuant("per_group", 4, group_size=32),
)


def correlated(rows: int, width: int) -> Tensor:
    """Inputs whose channels are alike, as those of models are, and of very different size."""
    hidden = torch.randn(rows, max(1, width // 4))
    return (hidden @ torch.randn(max(1, width // 4), width) + 0.3 * torch.randn(rows, width)) * torch.rand(width)


def beyond_nearest(chosen: Tensor, weight: Tensor, moments: Tensor, scale: Tensor, bits: int) -> float:
    """How much farther than half a step `chosen` lies from what is rounded, in steps, at the worst of its values.

    Rounds the channels, largest input first; after each, the others move to where the error is least. Hassibi and
    Stork, 1993: with H the second moments of the channels that are left, the others change by minus the error times
    ``H^-1[j] / H^-1[j, j]``. The inverse is taken anew each time. What was chosen is followed: after one value on the
    edge between two integers, which float32 may round the other way, all others of its row are rounded from elsewhere.
    """
    moments, weight, chosen, scale = moments.double(), weight.double().clone(), chosen.double(), scale.double()
    moments.diagonal().add_(_DAMPING * moments.diagonal().mean())
    left = moments.diagonal().argsort(descending=True, stable=True).tolist()
    most, beyond = 2 ** (bits - 1) - 1, []
    while left:
        inverse = torch.linalg.inv(moments[left][:, left])
        value = chosen[:, left[0]]
        beyond.append(((weight[:, left[0]] / scale).clamp(-most, most) - value / scale).abs() - 0.5)
        error = (weight[:, left[0]] - value) / inverse[0, 0]
        weight[:, left] -= error[:, None] * inverse[0]
        left = left[1:]
    return float(torch.stack(beyond).max())  # of a NaN: NaN


@pytest.mark.parametrize(("n", "k", "bits"), [(5, 1, 8), (7, 13, 4), (1, 130, 8), (3, 140, 3)])
def test_it_is_optimal_brain_surgery(n: int, k: int, bits: int) -> None:
    x, weight, quant = correlated(500, k), torch.randn(n, k), TensorQuant("per_channel", bits)
    _, scale = int8_weight("", weight, quant, PER_TOKEN)
    got = rounded("", weight, x.T @ x, quant, PER_TOKEN)
    assert torch.allclose(got / scale[:, None], (got / scale[:, None]).round(), atol=1e-3)
    assert beyond_nearest(got, weight, x.T @ x, scale, bits) < 1e-3  # float32's part


@pytest.mark.parametrize("quant", SCHEMES, ids=str)
@pytest.mark.parametrize("smoothing", [(), "random"])
def test_outputs_are_nearer_and_the_integers_hold_what_is_left(quant: TensorQuant, smoothing: object) -> None:
    n, k = 40, 150  # no whole groups, no whole blocks
    x, weight = correlated(2000, k), torch.randn(n, k)
    activation = TensorQuant("per_token", smoothing=tuple((torch.rand(k) + 0.5).tolist()) if smoothing else ())
    nearest = fake_quantized_weight(weight, quant, activation)
    got = rounded("", weight, x.T @ x, quant, activation)
    if quant.granularity != "per_group":  # there the grid follows from the weight
        quant = TensorQuant(
            quant.granularity, quant.bits, tuple(int8_weight("", weight, quant, activation)[1].tolist())
        )
    torch.testing.assert_close(fake_quantized_weight(got, quant, activation), got, rtol=1e-3, atol=1e-5)
    ours, theirs = (((x @ (w - weight).T).square().sum()) for w in (got, nearest))
    assert ours < 0.6 * theirs


def test_many_outputs_are_rounded_as_few() -> None:
    x, weight, quant = correlated(300, 20), torch.randn(2100, 20), TensorQuant("per_channel", 4)
    whole = rounded("", weight, x.T @ x, quant, PER_TOKEN)
    assert torch.equal(whole[1500:1600], rounded("", weight[1500:1600], x.T @ x, quant, PER_TOKEN))


def test_channels_without_input_are_rounded_to_nearest() -> None:
    x, weight, quant = correlated(300, 30), torch.randn(8, 30), TensorQuant("per_channel")
    x[:, [0, 7, 29]] = 0
    got = rounded("", weight, x.T @ x, quant, PER_TOKEN)
    assert torch.equal(got[:, [0, 7, 29]], fake_quantized_weight(weight, quant)[:, [0, 7, 29]])
    assert got.isfinite().all()


def test_moments_are_of_all_rows() -> None:
    layer, x = nn.Linear(6, 6), torch.randn(37, 3, 6)
    (moments,) = second_moments(nn.Sequential(layer, nn.ReLU()), {layer}, (x,)).values()
    flat = x.flatten(0, 1)
    torch.testing.assert_close(moments, flat.T @ flat, rtol=1e-4, atol=1e-4)


class Tied(nn.Module):
    """A head that shares the embedding's table, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(30, 64), nn.Linear(64, 64)
        self.again, self.head = self.mix, nn.Linear(64, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.again(torch.relu(self.mix(self.embedding(ids))))))


def workload(model: nn.Module, rows: Tensor) -> Workload:
    return Workload(lambda: model, (rows[:2],), (rows,), None)


@pytest.mark.parametrize(("bits", "group_size", "ratio"), [(8, 0, 1.0), (4, 32, 0.9)])
def test_as_an_option_of_the_step(bits: int, group_size: int, ratio: float, tmp_path: Path) -> None:
    ids, model = torch.randint(30, (100, 5)), Tied().eval()
    table, want = model.embedding.weight.detach().clone(), model(ids)
    errors = []
    for rounding in get_args(ptq.Rounding):
        own = copy.deepcopy(model)
        context = Context(workload(own, ids), tmp_path)
        made = ptq.apply(Made(own), context, weight_bits=bits, group_size=group_size, rounding=rounding)
        assert made.quantspec is not None
        errors.append(float((convert(made.model, made.quantspec)(ids) - want).detach().norm()))
    assert "weights of 2 rounded by GPTQ" in made.notes[-1]
    assert errors[1] < ratio * errors[0]
    assert torch.equal(own.embedding.weight, table)


def test_smoothing_is_an_option_too(tmp_path: Path) -> None:
    class Post(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up = nn.LayerNorm(16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            normed = self.norm(x)
            return normed + self.up(normed)

    model, x = Post().eval(), torch.randn(50, 16)
    with torch.no_grad():
        model.norm.weight[3] = 50.0
        model.up.weight[:, 3] /= 50.0
    made = ptq.apply(Made(model), Context(workload(model, x), tmp_path), smoothing=True, rounding="gptq")
    assert made.quantspec is not None
    assert len(made.quantspec.activations["up"].smoothing) == 16
    assert made.notes[0] == "inputs of 1 layers smoothed where they are quantized"


def test_what_it_cannot_round_is_said(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(9, 4)
    spec = dynamic_quantspec(model)
    with pytest.raises(PyprodError, match="needs calibration rows"):
        round_weights(model, spec, (x[:0],))
    with pytest.raises(PyprodError, match=r"^0 reads nothing finite"):
        round_weights(model, spec, (torch.full((3, 4), torch.nan),))
    with pytest.raises(PyprodError, match="per_token activations, got 8-bit static per_tensor"):
        round_weights(model, QuantSpec(spec.weights, {"0": TensorQuant("per_tensor", scale=(1.0,))}), (x,))
    context = Context(workload(model, x), tmp_path)
    with pytest.raises(PyprodError, match="rounding is nearest or gptq, not 'up'"):
        ptq.apply(Made(model), context, rounding="up")  # type: ignore[arg-type]
    with pytest.raises(PyprodError, match='smoothing and gptq are for scheme = "dynamic"'):
        ptq.apply(Made(model), context, scheme="static", smoothing=True)
    with pytest.raises(PyprodError, match='smoothing and gptq are for scheme = "dynamic"'):
        ptq.apply(Made(model), context, scheme="static", rounding="gptq")
    zeros = QuantSpec({"0": TensorQuant("per_channel", 8, (1.0,) * 4, (1, 0, 0, 0))}, {"0": PER_TOKEN})
    with pytest.raises(PyprodError, match="with zero points"):
        round_weights(model, zeros, (x,))
