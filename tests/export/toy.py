"""Small models with all that an export can get wrong: attention under a mask, norms, a batch norm to fold."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.workloads import Dimension

SEQUENCE = Dimension("sequence", ((0, 1), (1, 1)), least=1, most=12)


class Attention(nn.Module):
    """Ids and mask int64 ``[b, t]`` -> ``[b, 8]``."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.norm = nn.LayerNorm(8, 1e-12)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.causal = causal

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.embedding(ids))
        q, k, v = (f(x).view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2) for f in (self.query, self.key, self.value))
        seen = None if self.causal else mask.bool()[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.causal)
        x = x + F.gelu(self.out(mixed.transpose(1, 2).flatten(2)))
        return (x * mask.unsqueeze(-1)).sum(1)


class Convolutions(nn.Module):
    """Images ``[b, 3, 8, 8]`` -> ``[b, 5]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.conv(x)))))
        return self.head(x.mean((2, 3)))


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, all of it drawn anew: negative factors of norms and their statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(generator=generator)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
                module.running_var.abs_().add_(0.1)
    return model.eval()


def tokens(rows: int = 6, length: int = 7) -> tuple[Tensor, Tensor]:
    """Ids, and a mask that hides the end of every other row."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[::2, length - 2 :] = 0
    return torch.randint(20, (rows, length), generator=generator), mask


def images(rows: int = 6) -> tuple[Tensor]:
    """Normal pixels."""
    return (torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)
