"""A small residual CNN: ResNet-8 of MLPerf Tiny, with its widths as an argument."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or width_in != width:
            conv = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Gray images float ``[b, 1, h, w]`` -> logits ``[b, classes]``; each block after the first halves h and w."""

    def __init__(self, widths: Sequence[int], classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip([widths[0], *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, stride=1 if i == 0 else 2) for i, (a, b) in enumerate(pairs)))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.conv(images))))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out
