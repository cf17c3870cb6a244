"""How much of each channel's scale moves into the weights that read it: fitted to what INT8 does to the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyprod.fuse._expected import Expected, range_share
from pyprod.fuse._importance import Importance
from pyprod.kernels.quantize import quantize_asymmetric_reference, quantize_per_token_reference
from pyprod.nn import channel_scale, quantize_weight

#: Tokens on which scales are judged and fitted. The decoder's linears lose 7% more on others with half as many.
TOKENS = 2048
#: Rows of a weight that judge, evenly spaced: a head of a language model has fifty thousand.
_ROWS = 4096
#: Of the descent: it takes 15% off the error of the best known form, on average over the decoder; 80 steps take 17%.
_STEPS, _RATE = 30, 0.1
#: Expected costs are within a sixth of what INT8 computes: what is so many times the least is not worth computing.
_NEAR = 1.5
#: Share of the variance of rounding errors below which zero points pay. What encoder and decoder read from norms,
#: attention and gates has 0.58 to 0.88, and is mostly quantized on the way, without them; from GELUs 0.29 to 0.41.
_ONE_SIDED = 0.5
_TINY = torch.finfo(torch.float32).tiny


@dataclass
class Seen:
    """What a layer read: the largest and the mean square of each channel ``[k]``, and the first tokens ``[t, k]``."""

    largest: Tensor
    squares: Tensor
    count: int = 0
    tokens: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor) -> None:
        self.largest = torch.maximum(self.largest, x.abs().amax(0))
        self.squares = self.squares + x.square().sum(0)
        if self.count < TOKENS:
            self.tokens.append(x[: TOKENS - self.count].clone())
        self.count += len(x)

    @property
    def rms(self) -> Tensor:
        return (self.squares / max(1, self.count)).sqrt()


def seen(model: nn.Module, layers: set[nn.Linear], calibration: tuple[Tensor, ...], rows: int) -> dict[nn.Linear, Seen]:
    """What each layer reads when the model runs on the calibration rows, `rows` at a time."""
    found: dict[nn.Linear, Seen] = {}

    def observe(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2)
        found.setdefault(layer, Seen(torch.zeros(x.shape[1]), torch.zeros(x.shape[1]))).add(x)

    hooks = [layer.register_forward_pre_hook(observe) for layer in layers]
    try:
        with torch.no_grad():
            for start in range(0, calibration[0].shape[0], rows):
                model(*(t[start : start + rows] for t in calibration))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass(frozen=True)
class _Reader:
    """A layer that reads a value.

    Attributes:
        weight: ``[n, k]``, or some rows of it.
        want: ``[t, n]``, what it gives in float.
        importance: of its output.
    """

    weight: Tensor
    want: Tensor
    importance: Importance


def _read(weight: Tensor, x: Tensor, importance: Importance | None) -> _Reader:
    """Of a layer with that weight; where not all is known of its importance, errors count relative to its outputs."""
    step = max(1, -(-len(weight) // _ROWS))
    some = weight[::step].clone()
    want = x @ some.T
    if importance is None or len(importance.tokens) < len(x):
        level = 1 / want.square().mean().clamp_min(_TINY)
        return _Reader(some, want, Importance(level.expand(len(x)), torch.ones(len(some))))
    return _Reader(some, want, Importance(importance.tokens[: len(x)], importance.channels[::step]))


def one_sided(known: Seen, scale: Tensor) -> bool:
    """Whether zero points at least halve the variance of rounding errors of a value over its scales ``[k]``."""
    return any(map(len, known.tokens)) and range_share(torch.cat(known.tokens) / scale) < _ONE_SIDED


def smoothquant(known: Seen, weights: Sequence[Tensor], strength: float) -> Tensor:
    """``max|x_j|^strength / max|w_j|^(1 - strength)`` (arXiv 2211.10438), and 1 where that is no scale."""
    return _clean(known.largest**strength / _largest(weights) ** (1 - strength))


def fitted(
    known: Seen,
    layers: Sequence[tuple[Tensor, Importance | None]],
    shared: Callable[[Tensor], Tensor],
    asymmetric: bool = False,
) -> Tensor:
    """Scales ``[k]`` with which the model's outputs move least in INT8, activations per token.

    The best of several known forms, and then a product of powers of what is known of each channel (its largest and
    mean values, those of its weights, how much their errors matter): eight exponents, by gradient descent on the
    expected squares of the rounding errors. What INT8 computes has the last word. (A scale for each channel by itself
    fits 1,024 tokens 11% better, and others 5% worse.)

    Args:
        layers: those that read the value: weight ``[n, k]``, and the output's importance where it is known.
        shared: makes channels that have one maker have one scale.
        asymmetric: tokens get zero points.
    """
    with torch.inference_mode(False), torch.no_grad():
        x = torch.cat(known.tokens).clone()
        if not x.numel():
            return torch.ones_like(known.largest)
        readers = [_read(weight, x, importance) for weight, importance in layers]
        weights = [reader.weight for reader in readers]
        step = range_share(x) if asymmetric else 1.0
        expected = Expected(x, weights, [reader.importance for reader in readers], step)
        tried = [shared(scale) for scale in _candidates(known, weights)]
        best = min(tried, key=_least(lambda scale: expected(scale)[0]))
        features = _features(known, x, weights, expected)
        found = [torch.ones_like(best), best, _descended(best, features, expected, shared)]
        costs = [expected(scale)[0] for scale in found]
        near = [scale for scale, cost in zip(found, costs, strict=True) if not cost > _NEAR * min(costs)]
        return min(near, key=_least(lambda scale: float(_error(x, readers, scale, asymmetric))))


def _least(judge: Callable[[Tensor], float]) -> Callable[[Tensor], tuple[bool, float]]:
    """A key for `min`: NaN is more than anything."""
    return lambda scale: ((error := judge(scale)) != error, error)


def _candidates(known: Seen, weights: Sequence[Tensor]) -> Iterator[Tensor]:
    yield torch.ones_like(known.largest)
    for strength in (0.5, 0.65, 0.8):
        yield smoothquant(known, weights, strength)
    rms = _rms(weights)
    for strength in (0.4, 0.5, 0.6, 0.7):
        yield _clean(known.rms**strength / rms ** (1 - strength))
        yield _clean(known.rms**strength / _largest(weights) ** (1 - strength))


def _largest(weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)


def _rms(weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight.square().mean(0) for weight in weights]).mean(0).sqrt()


def _clean(scale: Tensor) -> Tensor:
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0)


def _error(x: Tensor, readers: Sequence[_Reader], scale: Tensor, asymmetric: bool = False) -> Tensor:
    """Squared errors of what each layer gives, by importance, summed."""
    if asymmetric:
        q, token, zero_point = quantize_asymmetric_reference(x / scale)
        rounded = (q - zero_point[:, None]) * token[:, None]
    else:
        q, token = quantize_per_token_reference(x / scale)
        rounded = q.float() * token[:, None]
    error = x.new_zeros(())
    for r in readers:
        channel = channel_scale(r.weight * scale)
        stored = quantize_weight(r.weight * scale, channel).float() * channel[:, None]
        error += r.importance.tokens @ (rounded @ stored.T - r.want).square() @ r.importance.channels
    return error


def _features(known: Seen, x: Tensor, weights: Sequence[Tensor], expected: Expected) -> Tensor:
    """Logarithms of what is known of each channel, 0 on average: ``[8, k]``."""
    matters = [expected.of_x.sum(0).sqrt(), expected.of_weight.sum(0).sqrt()]
    peaked = x.square().square().mean(0) ** 0.25
    values = [known.largest, known.rms, peaked, x.abs().mean(0), _largest(weights), _rms(weights)]
    logs = torch.stack([*values, *matters]).clamp_min(_TINY).log()
    return logs - logs.mean(1, keepdim=True)


def _descended(start: Tensor, features: Tensor, expected: Expected, shared: Callable[[Tensor], Tensor]) -> Tensor:
    """`start` times powers of what is known of each channel, by Adam."""
    best, least = start, math.inf
    exponents = torch.zeros(len(features), requires_grad=True)
    optimizer = torch.optim.Adam([exponents], lr=_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, _STEPS)
    for _ in range(_STEPS):
        with torch.enable_grad():
            scale = shared(start * torch.exp(exponents @ features))
        loss, slope = expected(scale.detach())
        if loss < least:
            best, least = scale.detach(), loss
        (exponents.grad,) = torch.autograd.grad(scale, [exponents], slope / max(loss, _TINY))  # of the logarithm
        optimizer.step()
        schedule.step()
    return best
