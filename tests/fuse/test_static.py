"""Layers of static scales: whichever of them are in integers, the graph computes what the simulation says."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pyprod.fuse import Untraceable, fuse
from pyprod.fuse._graph import is_call
from pyprod.nn import layers, static_quantspec
from pyprod.quantize.sensitivity import only
from pyprod.quantize.simulate import simulated
from pyprod.types import QuantSpec


class Residual(nn.Module):
    """Images [b, 3, 11, 9] to [b, 5]: pools, a block with a convolution as its shortcut, one without, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a1, self.a2, self.short = nn.Conv2d(8, 13, 3, 2, 1), nn.Conv2d(13, 13, 3, 1, 1), nn.Conv2d(8, 13, 1, 2)
        self.b1, self.b2 = nn.Conv2d(13, 7, 1), nn.Conv2d(7, 13, (3, 1), padding=(1, 0))
        self.hidden, self.head = nn.Linear(13, 17), nn.Linear(17, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        x = F.relu(self.short(x) + self.a2(F.relu(self.a1(x))))
        x = F.relu(x + self.b2(F.relu(self.b1(x))))
        return self.head(self.hidden(x.mean((2, 3))).relu())


class Mixed(nn.Module):
    """[b, 6, 12] to the same: linear layers over three axes, an operator without an INT8 form, a block around it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.out = nn.Linear(12, 31), nn.Linear(31, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.down(F.gelu(self.up(x))))


class Square(nn.Module):
    """As many rows as channels, where a view looks like one that drops axes of one; and a layer over four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(-1, 6, 2, 3))


MODELS = {"residual": (Residual, (3, 11, 9)), "mixed": (Mixed, (6, 12)), "square": (Square, (6, 6))}


def made(kind: str, rows: int = 4) -> tuple[nn.Module, QuantSpec, Tensor]:
    build, shape = MODELS[kind]
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)  # of both signs
    spec = static_quantspec(model, (torch.randn(64, *shape),))
    return model, spec, torch.randn(rows, *shape)


def calls(module: fx.GraphModule) -> int:
    return sum(is_call(node, torch.ops.pyprod.int8_cnn.default) for node in module.graph.nodes)


def layers_left(module: fx.GraphModule) -> int:
    aten = torch.ops.aten
    return sum(is_call(node, aten.conv2d.default, aten.linear.default) for node in module.graph.nodes)


def compare(model: nn.Module, spec: QuantSpec, x: Tensor) -> tuple[fx.GraphModule, float]:
    """The fused graph, and how far it is from the simulation: the relative L2 error.

    1e-7 where no value met a tie of two integers. Where one did: a step is 1/255 of a range, 6e-3 the worst of 141.
    """
    fused = fuse(model, spec, (x,))
    with torch.no_grad():
        got = fused(x)
        with simulated(model, spec):
            want = model(x)
    assert got.shape == want.shape
    error = float((got - want).norm() / want.norm())
    assert error < 3e-2
    return fused, error


@pytest.mark.parametrize("kind", ["residual", "mixed"])
def test_any_part_of_the_layers(kind: str) -> None:
    errors = []
    for _ in range(20):
        model, spec, x = made(kind, rows=random.choice([1, 4, 17]))
        names = list(spec.weights)
        kept = random.sample(names, random.randint(1, len(names)))
        fused, error = compare(model, only(spec, kept), x)
        errors.append(error)
        assert layers_left(fused) == len(names) - len(kept)
        assert 1 <= calls(fused) <= len(kept)
        assert fused.meta["rewritten"]["static"] == calls(fused)
    assert min(errors) < 1e-6  # half of them meet no tie


def test_all_in_one_call() -> None:
    model, spec, x = made("residual")
    assert calls(compare(model, spec, x)[0]) == 1


@pytest.mark.parametrize(("left", "want"), [("stem", 1), ("head", 1), ("short", 3), ("a2", 4), ("b1", 3)])
def test_few_calls_where_one_layer_stays_in_float(left: str, want: int) -> None:
    model, spec, x = made("residual")
    fused, _ = compare(model, only(spec, [name for name in spec.weights if name != left]), x)
    assert calls(fused) == want
    assert layers_left(fused) == 1


def test_a_view_that_splits_channels_is_no_pixel() -> None:
    model, spec, x = made("square")
    assert calls(compare(model, spec, x)[0]) == 2


def test_neighbours_stay_in_integers() -> None:
    """A chain of layers is one call however it is cut from the rest."""
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise((9, 8, 7, 6, 5))))
    x = torch.randn(3, 9)
    spec = static_quantspec(model, (torch.randn(64, 9),))
    assert calls(compare(model, only(spec, ["0", "1", "3"]), x)[0]) == 2


@pytest.mark.parametrize(
    "tail", [[], [nn.Sigmoid(), nn.Conv2d(6, 5, 2)], [nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 4 * 3, 2)]]
)
def test_images_between_calls_and_as_the_result(tail: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), *tail).eval()
    spec = static_quantspec(model, (torch.randn(64, 4, 6, 5),))
    fused, _ = compare(model, spec, torch.randn(3, 4, 6, 5))
    assert calls(fused) == len(spec.weights)


def test_grouped_convolutions_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    spec = static_quantspec(model, (torch.randn(8, 4, 5, 5),))
    with pytest.raises(Untraceable, match="conv2d"):
        fuse(model, spec, (torch.randn(1, 4, 5, 5),))


def test_a_layer_that_is_used_twice() -> None:
    """Its calls differ by size and by what follows."""
    conv = nn.Conv2d(3, 3, 3)
    with torch.no_grad():
        conv.bias[0] = 2  # or the last ReLU may leave nothing but zeros
    model = nn.Sequential(conv, nn.Sigmoid(), conv, nn.ReLU()).eval()
    spec = static_quantspec(model, (torch.randn(64, 3, 9, 8),))
    assert calls(compare(model, spec, torch.randn(2, 3, 9, 8))[0]) == 2


@pytest.mark.parametrize("sizes", [(5,), (2, 5), (2, 3, 5), (2, 3, 4, 5), (2, 1, 3, 2, 5)])
def test_rows_of_any_number_of_axes(sizes: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    spec = static_quantspec(model, (torch.randn(64, 5),))
    assert calls(compare(model, spec, torch.randn(sizes))[0]) == 1


def test_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(7, 6)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)

    model = Two()
    rows = torch.randn(64, 5), torch.randn(64, 7)
    spec, x = static_quantspec(model, rows), (torch.randn(3, 5), torch.randn(3, 7))
    fused = fuse(model, spec, x)
    with torch.no_grad(), simulated(model, spec):
        assert (fused(*x) - model(*x)).norm() / model(*x).norm() < 2e-2
    assert layers_left(fused) == 0
    assert {name for name, _ in layers(model)} == spec.weights.keys()
