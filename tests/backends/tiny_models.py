"""Tiny seeded models of the kinds that pyprod meets, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TinyTransformer(nn.Module):
    """Tokens and mask [b, s] to an embedding [b, 32]: two post-norm blocks with attention, mean pooling."""

    def __init__(self, width: int = 32, heads: int = 2, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(tokens)
        keep = mask[:, None, None, :].bool()
        for block in self.blocks:
            x = block(x, keep)
        weight = mask[:, :, None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        b, s, d = x.shape
        q, k, v = (
            linear(x).view(b, s, self.heads, -1).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).reshape(b, s, d)
        x = self.norm1(x + self.out(attended))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class TinyCNN(nn.Module):
    """Images [b, 1, 8, 8] to logits [b, 10]: two convolutions with batch norm, a residual, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(x + self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


class ConvOnly(nn.Module):
    """Images [b, 1, 8, 8] to logits [b, 4] without a single linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3))


class TinyMLP(nn.Module):
    """Rows [b, 8] to logits [b, 4]: what is left when a backend takes seconds to compile anything."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def transformer_inputs(batch: int, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 50, (batch, 12), generator=generator)
    lengths = torch.randint(4, 13, (batch, 1), generator=generator)
    return tokens, (torch.arange(12)[None] < lengths).long()


def image_inputs(batch: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed)),)


def row_inputs(batch: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 8, generator=torch.Generator().manual_seed(seed)),)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], tuple[Tensor, ...]]]] = {
    "transformer": (TinyTransformer, transformer_inputs),
    "cnn": (TinyCNN, image_inputs),
    "mlp": (TinyMLP, row_inputs),
    "conv_only": (ConvOnly, image_inputs),
}


def build(name: str) -> nn.Module:
    """The seeded model `name` in eval mode, its batch norms with statistics that are not the identity."""
    torch.manual_seed(0)
    model = MODELS[name][0]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def inputs(name: str, batch: int, seed: int) -> tuple[Tensor, ...]:
    return MODELS[name][1](batch, seed)
