"""smooth: the same function in float32, less error in INT8; hands off what it does not own."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyprod.fuse import fuse, smooth
from pyprod.nn import dynamic_quantspec

WIDTH, HEADS, KV, DEPTH, TOKENS = 48, 6, 2, 8, 7


class Block(nn.Module):
    """A layer of a decoder, with channels far larger than the others."""

    def __init__(self, residual_of_norm=False, cached=False):
        super().__init__()
        self.residual_of_norm, self.cached = residual_of_norm, cached
        self.norms = nn.ModuleList((nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)))
        self.query = nn.Linear(WIDTH, HEADS * DEPTH)
        self.key, self.value = (nn.Linear(WIDTH, KV * DEPTH) for _ in range(2))
        self.out = nn.Linear(HEADS * DEPTH, WIDTH)
        self.gate, self.up = (nn.Linear(WIDTH, 64, bias=False) for _ in range(2))
        self.down = nn.Linear(64, WIDTH, bias=False)
        with torch.no_grad():
            for norm in self.norms:
                norm.weight[3] = 40.0
            self.value.weight[5] *= 30
            self.up.weight[11] *= 30

    def forward(self, x):
        b, t = x.shape[:2]
        normed = self.norms[0](x)
        q, k, v = (layer(normed).view(b, t, -1, DEPTH).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if self.cached:
            v = torch.cat((torch.ones_like(v), v), 2)[:, :, t:]
        kv = torch.stack((k, v), 1).repeat_interleave(HEADS // KV, 2)
        k, v = kv.unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = (normed if self.residual_of_norm else x) + self.out(mixed)
        normed = self.norms[1](x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


def calibration(rows=9):
    return (torch.randn(rows, TOKENS, WIDTH),)


@pytest.mark.parametrize(
    ("options", "places", "inputs"),
    [
        ({}, 4, []),
        ({"residual_of_norm": True}, 3, ["key", "query", "value"]),
        ({"cached": True}, 3, ["out"]),
    ],
    ids=str,
)
def test_the_function_stays(options, places, inputs):
    model, rows = Block(**options).eval(), calibration()
    with torch.inference_mode():
        want = model(*rows)
        found = smooth(model, rows)
        assert found.places == places
        assert sorted(found.inputs) == inputs
        torch.testing.assert_close(model(*rows), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


def test_int8_comes_closer():
    """One channel 50 times the others, which its weights undo: it costs all other channels their resolution."""
    model, x = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)).eval(), torch.randn(300, WIDTH)
    with torch.no_grad():
        model[0].weight[3] = 50.0
        model[1].weight[:, 3] /= 50.0
    with torch.inference_mode():
        want = model(x)
        before = (fuse(model, dynamic_quantspec(model), (x,))(x) - want).norm()
        assert smooth(model, (x,)).places == 1
        after = (fuse(model, dynamic_quantspec(model), (x,))(x) - want).norm()
    assert after < before / 4


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 0.65, 0.8, 1.0])
def test_what_is_searched_is_as_good_as_any_strength(strength):
    """Of one layer after a norm, where what is judged is what the model computes; on the rows that judged."""
    torch.manual_seed(int(100 * strength))
    model, x = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)).eval(), torch.randn(200, WIDTH)
    with torch.no_grad():
        model[0].weight.copy_(torch.exp(torch.randn(WIDTH)))
        model[1].weight.mul_(torch.exp(torch.randn(WIDTH)))
    errors = []
    with torch.inference_mode():
        want = model(x)
        for asked in (strength, None):
            tried = copy.deepcopy(model)
            assert smooth(tried, (x,), asked).places == 1
            errors.append((fuse(tried, dynamic_quantspec(tried), (x,))(x) - want).norm())
    assert errors[1] < 1.05 * errors[0]  # strengths that are not among those tried may be a little better


@pytest.mark.parametrize("kept", ["norm", "gelu"])
def test_int8_comes_closer_where_the_model_needs_the_value_as_it_is(kept):
    class Post(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
            with torch.no_grad():
                if kept == "norm":
                    self.norm.weight[3] = 50.0
                    self.up.weight[:, 3] /= 50.0
                else:
                    self.up.weight[7] *= 50.0
                    self.down.weight[:, 7] /= 50.0

        def forward(self, x):
            normed = self.norm(x)
            return self.down(F.gelu(self.up(normed))) + (normed if kept == "norm" else 0)

    model, x = Post().eval(), torch.randn(300, WIDTH)
    with torch.inference_mode():
        want = model(x)
        before = (fuse(model, dynamic_quantspec(model), (x,))(x) - want).norm()
        found = smooth(model, (x,))
        after = (fuse(model, dynamic_quantspec(model, smoothing=found.inputs), (x,))(x) - want).norm()
    # Without outliers, what the GELU gives may be best left alone.
    assert found.inputs.keys() - {"down"} == ({"up"} if kept == "norm" else set())
    assert kept == "norm" or "down" in found.inputs
    assert after < before / 2


def test_small_outputs_count_as_much_as_large_ones():
    """A reader whose outputs are a hundred times the other's decides nothing for that one."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.large, self.small = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            normed = self.norm(x)
            return torch.cat((self.large(normed), self.small(normed)), -1)

    model, x = Two().eval(), torch.randn(200, 64)
    with torch.no_grad():
        model.norm.weight[3] = 60.0
        model.small.weight[:, 3] = 0.0  # what is large matters to the other alone
        model.large.weight.mul_(100)
    with torch.inference_mode():
        want = model(x)[:, 64:]
        before = (fuse(model, dynamic_quantspec(model), (x,))(x)[:, 64:] - want).norm()
        smooth(model, (x,))
        after = (fuse(model, dynamic_quantspec(model), (x,))(x)[:, 64:] - want).norm()
    assert after < before / 4


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.norm(self.embedding(ids)))


def test_a_weight_tied_to_an_embedding_gets_a_copy():
    model, ids = Tied().eval(), torch.randint(30, (5, 3))
    with torch.no_grad():
        model.norm.weight[3] = 40.0
    table, want = model.embedding.weight.detach().clone(), model(ids)
    assert smooth(model, (ids,)).places == 1
    assert torch.equal(model.embedding.weight, table)
    assert not torch.equal(model.head.weight, table)
    torch.testing.assert_close(model(ids), want)


class Shared(nn.Module):
    """One norm before two layers, and one layer after two norms: neither can be scaled for one reader alone."""

    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.LayerNorm(8), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.first(self.norm(self.second(self.norm(x)))) + self.second(self.other(x))


def test_what_is_shared_stays():
    model = Shared().eval()
    before = copy.deepcopy(model.state_dict())
    found = smooth(model, (torch.randn(3, 8),))
    assert found.places == 0
    assert found.inputs.keys() <= {"first"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_channels_without_scale_stay():
    """A channel that is always 0, a weight column of 0, and a NaN in the calibration."""
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0.0, 0.0
        model[1].weight[:, 5] = 0.0
    x = torch.randn(6, 8)
    want = model(x)
    assert smooth(model, (x,)).places == 1
    torch.testing.assert_close(model(x), want)
    assert smooth(model, (torch.full((2, 8), torch.nan),)).places == 1
    torch.testing.assert_close(model(x), want)
