"""Scales between a value and the weights that read it: what is expected of them against what INT8 computes."""

import pytest
import torch

from pyprod.fuse._balance import Seen, _error, _read, fitted
from pyprod.fuse._expected import Expected
from pyprod.fuse._importance import Importance

TOKENS, WIDTH = 400, 96


def seen(x):
    return Seen(x.abs().amax(0), x.square().sum(0), len(x), [x])


def value(spread):
    return torch.randn(TOKENS, WIDTH) * torch.exp(spread * torch.randn(WIDTH))


def importance(n):
    channels = torch.rand(n) + 0.1
    return Importance(torch.exp(torch.randn(TOKENS)), channels / channels.mean())


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_what_is_expected_is_what_int8_loses(spread):
    x, scale = value(spread), torch.exp(0.5 * torch.randn(WIDTH))
    readers = [_read(torch.randn(n, WIDTH), x, importance(n)) for n in (64, 200)]
    expected = Expected(x, [r.weight for r in readers], [r.importance for r in readers])
    assert expected(scale)[0] == pytest.approx(float(_error(x, readers, scale)), rel=0.3)  # 150 seeds: 0.17 at most


def obvious(x, weights, importances, scale):
    """`Expected` as it reads, for autograd."""
    total = 0.0
    step = (x.abs() / scale).amax(1).square() / (12 * 127**2)
    lost = torch.minimum(step[:, None] * scale.square(), x.square())
    for weight, importance in zip(weights, importances, strict=True):
        channel = (weight.abs() * scale).amax(1).square() / (12 * 127**2)
        total = total + importance.tokens @ lost @ (importance.channels @ weight.square())
        total = total + (importance.channels @ channel) * (importance.tokens @ (x / scale).square()).sum()
    return total


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_the_gradient_is_autograds(spread):
    x, scale = value(spread).double(), torch.exp(0.5 * torch.randn(WIDTH)).double().requires_grad_()
    weights = [torch.randn(n, WIDTH).double() for n in (64, 1, 200)]
    matter = [importance(len(weight)) for weight in weights]
    matter = [Importance(known.tokens.double(), known.channels.double()) for known in matter]
    want = obvious(x, weights, matter, scale)
    (slope,) = torch.autograd.grad(want, [scale])
    got = Expected(x, weights, matter)(scale.detach())
    assert got[0] == pytest.approx(float(want.detach()), rel=1e-9)
    torch.testing.assert_close(got[1], slope, rtol=1e-9, atol=1e-9 * slope.abs().max().item())


def test_what_is_not_known_of_importance_is_made_up_by_the_outputs():
    x, weight = value(1.0), torch.randn(64, WIDTH)
    short = Importance(torch.ones(TOKENS - 1), torch.ones(64))
    for unknown in (None, short):
        small, large = (_read(factor * weight, x, unknown) for factor in (1.0, 100.0))
        errors = [float(_error(x, [reader], torch.ones(WIDTH))) for reader in (small, large)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_the_fit_is_never_worse_than_leaving_the_place_alone():
    x, weight = value(2.0), torch.randn(64, WIDTH)
    matters = importance(64)
    reader = _read(weight, x, matters)
    scale = fitted(seen(x), [(weight, matters)], lambda s: s)
    assert float(_error(x, [reader], scale)) < 0.5 * float(_error(x, [reader], torch.ones(WIDTH)))


def test_a_value_that_was_never_seen_keeps_its_scale():
    known = Seen(torch.zeros(WIDTH), torch.zeros(WIDTH), 0, [torch.empty(0, WIDTH)])
    assert torch.equal(fitted(known, [(torch.randn(8, WIDTH), None)], lambda s: s), torch.ones(WIDTH))
