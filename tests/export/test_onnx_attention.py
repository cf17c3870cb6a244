"""Attention as one node: with each way to mask that is fused, and not with those that are not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.export import onnx_file
from pyprod.export.onnx_attention import fuse_attention
from pyprod.export.onnx_runtimes import onnxruntime
from pyprod.export.program import trace
from tests.export.toy import SEQUENCE, Attention, seeded, tokens


def fused(model: nn.Module, example: tuple[Tensor, ...], folder: Path) -> tuple[tuple[int, int], Path]:
    made = onnx_file.convert(trace(model, example, (SEQUENCE,) if len(example) == 2 else ()))
    counts = fuse_attention(made.model, made.program)
    path = folder / "fused.onnx"
    onnx_file.save(made.model, path)
    operators = Counter(node.op_type for node in made.model.graph.node)
    assert operators["MultiHeadAttention"] == counts[0]
    assert operators["Softmax"] == counts[1] - counts[0]
    return counts, path


@pytest.mark.parametrize("causal", [False, True])
def test_masked_by_padding_and_causal(causal: bool, tmp_path: Path) -> None:
    model = seeded(Attention(causal))
    counts, path = fused(model, tokens(2), tmp_path)
    assert counts == (1, 1)
    run = onnxruntime(path, 1)
    for rows, length in ((1, 1), (3, 4), (5, 12)):
        ids, mask = tokens(rows, max(length, 3))
        ids, mask = ids[:, :length], mask[:, :length]
        assert torch.allclose(run((ids, mask)), model(ids, mask), atol=1e-5, equal_nan=True)


class Masked(nn.Module):
    """Attention under a mask of one's own, ``x [b, 3, 8]``."""

    def __init__(self, mask: Tensor, scale: float | None = None, kv_heads: int = 2) -> None:
        super().__init__()
        self.query, self.kv = nn.Linear(8, 8), nn.Linear(8, 4 * kv_heads)
        self.register_buffer("mask", mask)
        self.scale, self.kv_heads = scale, kv_heads

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).view(x.shape[0], 3, 2, 4).transpose(1, 2)
        kv = self.kv(x).view(x.shape[0], 3, self.kv_heads, 4).transpose(1, 2)
        gqa = self.kv_heads != 2
        mixed = F.scaled_dot_product_attention(q, kv, kv.tanh(), attn_mask=self.mask, scale=self.scale, enable_gqa=gqa)
        return mixed.flatten(1)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_bias_and_a_scale(scale: float | None, tmp_path: Path) -> None:
    model, x = seeded(Masked(torch.randn(1, 2, 3, 3), scale)), torch.randn(4, 3, 8)
    counts, path = fused(model, (x,), tmp_path)
    assert counts == (1, 1)
    assert torch.allclose(onnxruntime(path, 1)((x,)), model(x), atol=1e-5)


@pytest.mark.parametrize("model", [Masked(torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()), Masked(torch.randn(3, 3))])
def test_a_mask_that_the_operator_does_not_have_stays(model: Masked, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8)
    counts, path = fused(seeded(model), (x,), tmp_path)
    assert counts == (0, 1)
    assert torch.allclose(onnxruntime(path, 1)((x,)), model(x), atol=1e-5)
