"""Inputs on one side of 0: found by smooth, quantized with zero points by the layer that reads them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyprod.fuse import fuse, smooth
from pyprod.nn import convert, dynamic_quantspec

WIDTH = 48


class Perceptron(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation, self.norm = activation, nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)

    def forward(self, x):
        return self.down(self.activation(self.up(self.norm(x))))


@pytest.mark.parametrize("activation", [F.gelu, F.relu, torch.sigmoid, torch.tanh])
def test_what_an_activation_gives(activation):
    model, x = Perceptron(activation).eval(), torch.randn(300, WIDTH)
    with torch.inference_mode():
        want = model(x)
        found = smooth(model, (x,))
        plain, shifted = (
            fuse(model, dynamic_quantspec(model, smoothing=found.inputs, asymmetric=names), (x,))(x)
            for names in ((), found.one_sided)
        )
    if activation is torch.tanh:
        assert found.one_sided == ()
    else:
        assert found.one_sided == ("down",)
        assert "inputs of 1 layers with zero points" in found.notes
        assert (shifted - want).norm() < 0.95 * (plain - want).norm()  # what norm and weights lose is in both


def test_layers_that_want_zero_points_of_one_value_are_merged_and_no_norm_takes_them():
    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)
            self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, 8) for _ in range(4))

        def forward(self, x):
            normed = self.norm(x + 1)
            return self.a(normed) + self.b(normed) + self.c(normed) * self.d(normed)

    model, x = Three().eval(), torch.randn(5, WIDTH)
    for asymmetric, merged in ((["a", "b"], 2), (["a"], 1), (["a", "b", "c", "d"], 1)):
        spec = dynamic_quantspec(model, asymmetric=asymmetric)
        with torch.inference_mode():
            module = fuse(model, spec, (x,))
            assert module.meta["rewritten"]["merge"] == merged
            torch.testing.assert_close(module(x), convert(copy.deepcopy(model), spec)(x), rtol=1e-4, atol=1e-4)
