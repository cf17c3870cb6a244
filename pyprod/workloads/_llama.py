"""SmolLM2-135M, a Llama in plain torch: over a whole sequence, or one token after a KV cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, LAYERS, HIDDEN, VOCABULARY = 576, 30, 1536, 49_152
HEADS, KV_HEADS, HEAD_WIDTH = 9, 3, 64
ROPE_BASE, EPSILON = 100_000.0, 1e-5


class RMSNorm(nn.Module):
    """Root-mean-square norm, spelled out so that every exporter takes it; the mean is taken in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query attention with rotary positions: three query heads share a key and value head."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, HEADS * HEAD_WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, KV_HEADS * HEAD_WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, KV_HEADS * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, angles: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x [b, t, WIDTH]``, ``angles [2, t, HEAD_WIDTH]`` (cos, sin), ``past [b, 2, KV_HEADS, p, HEAD_WIDTH]``.

        Returns the output ``[b, t, WIDTH]`` and keys and values of past and present, shaped like `past`.
        """
        q = _rotate(_heads(self.query(x), HEADS), angles)
        kv = torch.stack((_rotate(_heads(self.key(x), KV_HEADS), angles), _heads(self.value(x), KV_HEADS)), 1)
        if past is not None:  # one token: it sees all there is
            kv = torch.cat((past, kv), 3)
        # Repeated rather than enable_gqa=True, which the exporters do not all know.
        k, v = kv.repeat_interleave(HEADS // KV_HEADS, 2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        return self.out(mixed.transpose(1, 2).flatten(2)), kv


class Layer(nn.Module):
    """One block: attention, then a gated feed-forward network, each on normalized input and added."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.norm = RMSNorm(), RMSNorm()
        self.attention = Attention()
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, angles: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `Attention.forward`."""
        mixed, kv = self.attention(self.attention_norm(x), angles, past)
        x = x + mixed
        normed = self.norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed)), kv


class Decoder(nn.Module):
    """Ids int64 ``[b, t]`` -> logits ``[b, t, VOCABULARY]``, for t up to `length`."""

    angles: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight  # as published: one matrix for both
        self.register_buffer("angles", _angles(length), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.prefill(input_ids)[0]

    def prefill(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the KV cache ``[b, LAYERS, 2, KV_HEADS, t, HEAD_WIDTH]``."""
        x, caches = self.embedding(input_ids), []
        for layer in self.layers:
            x, kv = layer(x, self.angles[:, : input_ids.shape[1]], None)
            caches.append(kv)
        return self.head(self.norm(x)), torch.stack(caches, 1)


class DecoderStep(Decoder):
    """A step of generation: token int64 ``[b, 1]``, KV cache of ``length - 1`` tokens -> logits ``[b, VOCABULARY]``."""

    def forward(self, token: Tensor, cache: Tensor) -> Tensor:  # type: ignore[override]
        """`cache` as `prefill` gives it; what a server would append to it is computed, and not returned."""
        x = self.embedding(token)
        for layer, past in zip(self.layers, cache.unbind(1), strict=True):
            x, _ = layer(x, self.angles[:, -1:], past)
        out: Tensor = self.head(self.norm(x))[:, 0]
        return out


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], heads, HEAD_WIDTH).transpose(1, 2)


def _angles(length: int) -> Tensor:
    frequency = ROPE_BASE ** -(torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float64) / HEAD_WIDTH)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency).repeat(1, 2)
    return torch.stack((angle.cos(), angle.sin())).float()


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * angles[0] + torch.cat((-second, first), -1) * angles[1]
