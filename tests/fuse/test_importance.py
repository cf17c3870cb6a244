"""Importance of layers' outputs: squared gradients, whatever the model and the caller think of gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyprod.fuse import fuse, smooth
from pyprod.fuse._importance import importances
from pyprod.nn import dynamic_quantspec

ROWS, TOKENS, WIDTH = 5, 7, 16


class Weighted(nn.Module):
    """Outputs are a layer's, each token's and channel's times a factor of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("tokens", torch.rand(ROWS, TOKENS, 1) + 0.1)
        self.register_buffer("channels", torch.rand(WIDTH) + 0.1)

    def forward(self, x):
        return {"out": (self.layer(x) * self.tokens[: len(x)] * self.channels,)}


@pytest.mark.parametrize("inference", [False, True])
def test_squared_gradients(inference):
    model, x = Weighted().eval().requires_grad_(False), torch.randn(ROWS, TOKENS, WIDTH)
    with torch.inference_mode(inference):
        (found,) = importances(model, {model.layer}, (x,), ROWS, 1000).values()
    tokens, channels = model.tokens.square().flatten(), model.channels.square()
    torch.testing.assert_close(found.tokens, tokens * channels.mean())
    torch.testing.assert_close(found.channels, channels / channels.mean())
    assert not found.tokens.is_inference()
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_no_more_rows_than_tokens_ask_for():
    model, x = nn.Sequential(nn.Linear(WIDTH, WIDTH)).eval(), torch.randn(ROWS, TOKENS, WIDTH)
    (found,) = importances(model, {model[0]}, (x,), 2, TOKENS + 1).values()
    assert len(found.tokens) == 2 * TOKENS


class Silent(nn.Module):
    """It computes without gradients."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    @torch.no_grad()
    def forward(self, x):
        return self.layer(self.norm(x))


def test_a_model_without_gradients_is_smoothed_all_the_same():
    model, x = Silent().eval(), torch.randn(300, WIDTH)
    with torch.no_grad():
        model.norm.weight[3] = 50.0
        model.layer.weight[:, 3] /= 50.0
        assert not importances(model, {model.layer}, (x,), 300, 1000)
        want = model(x)
        before = (fuse(model, dynamic_quantspec(model), (x,))(x) - want).norm()
        assert smooth(model, (x,)).places == 1
        after = (fuse(model, dynamic_quantspec(model), (x,))(x) - want).norm()
    assert after < before / 4


class Drowned(nn.Module):
    """Two layers read a value; the sum that comes out has next to nothing of the one whose outputs are large."""

    def __init__(self):
        super().__init__()
        self.norm, self.large, self.small = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        normed = self.norm(x)
        return F.silu(self.large(normed)) * 1e-4 + self.small(normed)


def test_what_the_outputs_do_not_see_decides_nothing():
    model, x = Drowned().eval(), torch.randn(200, 64)
    with torch.no_grad():
        model.large.weight.mul_(100)
        model.large.weight[:, ::2] *= 40  # the channels that this one would have small ...
        model.small.weight[:, 1::2] *= 40  # ... are not those that this one would
        alone = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64)).eval()
        alone[0].load_state_dict(model.norm.state_dict())
        alone[1].load_state_dict(model.small.state_dict())
        errors = []
        for tried in (model, alone):
            want = tried(x)
            smooth(tried, (x,))
            errors.append(float((fuse(tried, dynamic_quantspec(tried), (x,))(x) - want).norm()))
    assert errors[0] < 1.2 * errors[1]
