"""Structured pruning removes channels for good, and what is left computes what the kept channels computed."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.optimize import structured
from pyprod.types import PyprodError
from pyprod.workloads._resnet import ResNet


class Attention(nn.Module):
    """Two heads or more of four channels; their number is read from the layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 64), nn.Linear(64, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = self.norm(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        out: Tensor = x + self.down(F.gelu(self.up(x)))
        return out


HEADS = {"query": 4, "key": 4, "value": 4}


@pytest.mark.parametrize("macs", [0.8, 0.5, 0.3])
def test_as_many_operations_are_left_as_asked(macs: float) -> None:
    model, example = ResNet((16, 32)).eval(), (torch.randn(2, 1, 8, 8),)
    made = structured.prune(model, example, macs, round_to=2)
    assert macs - 0.12 < made.macs[1] / made.macs[0] <= macs
    assert made.macs[1] == structured.count(made.model, example)
    assert made.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, made.model))
    assert made.model(*example).shape == (2, 10)
    assert "linear" not in made.widths
    assert all(after % 2 == 0 and after < before for before, after in made.widths.values())
    assert {name: m.weight.shape[0] for name, m in model.named_modules() if name in made.widths} == {
        name: before for name, (before, _) in made.widths.items()
    }, "the model itself was changed"


def test_channels_that_do_nothing_go_first_and_are_not_missed() -> None:
    """The slow twin: the same network, with the useless channels in it."""
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 5)).eval()
    dead = [random.sample(range(40), 20), random.sample(range(24), 12)]
    with torch.no_grad():
        for layer, following, rows in ((model[0], model[2], dead[0]), (model[2], model[4], dead[1])):
            layer.weight[rows] *= 1e-6
            layer.bias[rows] = 0
            following.weight[:, rows] *= 1e-6
    x = torch.randn(7, 12)
    made = structured.prune(model, (x,), 0.5, round_to=1)
    torch.testing.assert_close(made.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_heads_and_width_of_attention() -> None:
    model, example = Attention().eval(), (torch.randn(3, 5, 16),)
    made = structured.prune(model, example, 0.5, heads=HEADS)
    left = made.model.query.out_features
    assert left % 4 == 0
    assert left < 16
    assert made.model.out.in_features == made.model.key.out_features == made.model.value.out_features == left
    assert made.model.out.out_features == made.model.down.out_features == 16
    assert made.model(*example).shape == (3, 5, 16)


def test_what_is_kept_keeps_its_channels() -> None:
    made = structured.prune(Attention().eval(), (torch.randn(3, 5, 16),), 0.6, keep=["query", "key", "val*"])
    assert list(made.widths) == ["up"]


def test_importance_by_the_loss() -> None:
    """Channels with large weights that the loss does not depend on go before small ones that it does."""
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    unused = random.sample(range(32), 16)
    with torch.no_grad():
        model[2].weight[:, unused] = 0
        model[0].weight[unused] *= 100
    x = torch.randn(64, 8)
    kept = structured.prune(model, (x,), 0.5, round_to=1, loss=lambda m: m(x).square().mean())
    torch.testing.assert_close(kept.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_sizes_in_the_code_are_an_error_that_says_so() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x).view(len(x), 4, 8).flatten(1))
            return out

    with pytest.raises(PyprodError, match=r"does not run .*sizes are written into its code; name"):
        structured.prune(Fixed().eval(), (torch.randn(2, 8),), 0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"macs": 0.0}, "between 0 and 1"),
        ({"macs": 1.2}, "between 0 and 1"),
        ({"macs": 0.5, "keep": ["nothing*"]}, "no layer of the model is named 'nothing"),
        ({"macs": 0.5, "keep": ["conv", "blocks*"]}, "can't be reached"),
        ({"macs": 0.001, "round_to": 1}, "can't be reached"),
    ],
)
def test_what_cannot_be(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(PyprodError, match=words):
        structured.prune(ResNet((8, 16)).eval(), (torch.randn(2, 1, 8, 8),), **arguments)  # type: ignore[arg-type]
