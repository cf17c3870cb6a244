"""How much of each channel's scale moves into the weights that read it: tried, judged by what INT8 then computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyprod.kernels.quantize import quantize_per_token_reference
from pyprod.nn import channel_scale, quantize_weight

#: Tokens on which candidates are judged: 1,024 find no better scales for the decoder.
_TOKENS = 256
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
        if self.count < _TOKENS:
            self.tokens.append(x[: _TOKENS - self.count].clone())
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


def smoothquant(known: Seen, weights: Sequence[Tensor], strength: float) -> Tensor:
    """``max|x_j|^strength / max|w_j|^(1 - strength)`` (arXiv 2211.10438), and 1 where that is no scale."""
    return _clean(known.largest**strength / _largest(weights) ** (1 - strength))


def searched(known: Seen, weights: Sequence[Tensor], shared: Callable[[Tensor], Tensor]) -> Tensor:
    """Of several scales ``[k]`` the one with which INT8, activations per token, comes closest to ``x @ w.T``.

    By root mean squares the signals of all channels come out alike, which is best where noise is spread evenly; by
    largest values no token is ruled by one channel. Which of them wins differs from layer to layer. (Trying what suits
    the output: AWQ, arXiv 2306.00978.)

    Args:
        weights: ``[n, k]`` of each layer that reads the value.
        shared: makes channels that have one maker have one scale.
    """
    x = torch.cat(known.tokens)
    wants = [x @ weight.T for weight in weights]
    tried = [shared(scale) for scale in _candidates(known, weights)]
    errors = [_error(x, weights, wants, scale) for scale in tried]
    return tried[min(range(len(tried)), key=lambda i: (errors[i] != errors[i], errors[i]))]  # NaN last


def _candidates(known: Seen, weights: Sequence[Tensor]) -> Iterator[Tensor]:
    yield torch.ones_like(known.largest)
    for strength in (0.5, 0.65, 0.8):
        yield smoothquant(known, weights, strength)
    rms = torch.stack([weight.square().mean(0) for weight in weights]).mean(0).sqrt()
    for strength in (0.4, 0.5, 0.6, 0.7):
        yield _clean(known.rms**strength / rms ** (1 - strength))
        yield _clean(known.rms**strength / _largest(weights) ** (1 - strength))


def _largest(weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)


def _clean(scale: Tensor) -> Tensor:
    return torch.where(scale.isfinite() & (scale > 0), scale, 1.0)


def _error(x: Tensor, weights: Sequence[Tensor], wants: Sequence[Tensor], scale: Tensor) -> float:
    """Relative squared distance of each output from what is wanted, summed: queries and keys are large, values not."""
    q, token = quantize_per_token_reference(x / scale)
    rounded = q.float() * token[:, None]
    error = 0.0
    for weight, want in zip(weights, wants, strict=True):
        channel = channel_scale(weight * scale)
        stored = quantize_weight(weight * scale, channel).float() * channel[:, None]
        error += float((rounded @ stored.T - want).square().sum() / want.square().sum().clamp_min(_TINY))
    return error
