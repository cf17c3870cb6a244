"""A merged projection and its attention, a sample at a time: the bits of one after the other."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from pyprod import kernels

SHAPES = [  # batch, tokens, k, heads, kv_heads, depth
    (1, 1, 1, 1, 1, 1),
    (1, 33, 64, 3, 1, 20),
    (2, 128, 96, 4, 4, 32),
    (3, 7, 65, 4, 2, 16),
    (5, 31, 40, 2, 1, 64),
    (9, 20, 48, 6, 3, 33),
]


class Layer:
    """A random projection and rows for it."""

    def __init__(self, batch: int, tokens: int, k: int, heads: int, kv_heads: int, depth: int) -> None:
        n = (heads + 2 * kv_heads) * depth
        self.w_q = torch.randint(-128, 128, (n, k), dtype=torch.int8)
        self.weights = (kernels.pack_weight(self.w_q), torch.rand(n) / k, torch.randn(n))
        self.heads = (heads, kv_heads)
        self.rows = kernels.quantize_per_token(torch.randn(batch, tokens, k))

    def one_after_the_other(self, *options: object) -> Tensor:
        qkv = kernels.int8_linear_prequantized(*self.rows, *self.weights)
        return kernels.int8_attention_packed(qkv, *self.heads, *options)

    def __call__(self, *options: object) -> Tensor:
        return kernels.int8_self_attention(*self.rows, *self.weights, *self.heads, *options)


def masks(batch: int, heads: int, tokens: int) -> list[Tensor | None]:
    padding = torch.rand(batch, 1, 1, tokens) < 0.7
    return [None, padding, torch.rand(tokens, tokens) < 0.5, torch.randn(batch, heads, tokens, tokens)]


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_of_one_after_the_other(shape: tuple[int, ...]) -> None:
    layer, (batch, tokens, _, heads, *_) = Layer(*shape), shape
    for mask in masks(batch, heads, tokens):
        for options in ((mask,), (mask, True), (mask, False, 0.3)):
            assert torch.equal(layer(*options), layer.one_after_the_other(*options))


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 9])  # shared out by samples, or by rows and heads
def test_threads_change_no_bit(batch: int) -> None:
    layer = Layer(batch, random.randint(1, 90), 96, 4, 2, 32)
    want, threads = layer(), torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(layer(), want)
    finally:
        torch.set_num_threads(threads)


def test_twin() -> None:
    layer = Layer(2, 19, 40, 4, 2, 16)
    want = kernels.int8_self_attention_reference(*layer.rows, layer.w_q, *layer.weights[1:], *layer.heads)
    assert (layer() - want).norm() < 0.01 * want.norm()


def test_strides_and_empty() -> None:
    layer = Layer(3, 9, 24, 2, 1, 8)
    want = layer()
    q, scale = layer.rows
    layer.rows = (q.transpose(0, 1).contiguous().transpose(0, 1), scale)
    assert torch.equal(layer(), want)
    layer.rows = (q[:0], scale[:0])
    assert layer().shape == (0, 9, 16)
    layer.rows = (q[:, :0], scale[:, :0].contiguous())
    assert layer().shape == (3, 0, 16)


def test_a_row_without_scale_is_nan_and_so_are_those_that_see_it() -> None:
    layer = Layer(2, 9, 24, 2, 1, 8)
    layer.rows[1][1, 4] = float("nan")
    assert layer()[0].isfinite().all()
    assert layer()[1].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(4, 24, dtype=torch.int8)}, r"q must be \[B, S, 24\], got \[4, 24\]"),
        ({"q": torch.zeros(2, 4, 23, dtype=torch.int8)}, r"q must be \[..., 24\], got \[2, 4, 23\]"),
        ({"q": torch.zeros(2, 4, 24)}, "q must be int8, got float32"),
        ({"scale": torch.zeros(2, 5)}, "scale must have the shape of q without its last dimension"),
        ({"heads": 3}, "heads must be a multiple of kv_heads, both positive, got 3 and 2"),
        ({"heads": 4}, r"n must be a multiple of heads \+ 2 kv_heads = 8, got 36"),
        ({"mask": torch.zeros(5, 7)}, r"mask must broadcast to \[2, 2, 4, 4\], got \[5, 7\]"),
        ({"bias": torch.zeros(35)}, r"bias must be \[36\]"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    packed = kernels.pack_weight(torch.zeros(36, 24, dtype=torch.int8))
    rows = {"q": torch.zeros(2, 4, 24, dtype=torch.int8), "scale": torch.ones(2, 4)}
    good = {**rows, "packed": packed, "w_scale": torch.ones(36), "bias": None, "heads": 2, "kv_heads": 2}
    with pytest.raises(RuntimeError, match=f"int8_self_attention: {message}"):
        kernels.int8_self_attention(**(good | change))


def test_gradients_are_refused() -> None:
    layer = Layer(1, 2, 4, 1, 1, 4)
    packed, scale, bias = layer.weights
    layer.weights = (packed, scale, bias.requires_grad_())
    with pytest.raises(RuntimeError, match="int8_self_attention has no gradient"):
        layer()


def test_tracing() -> None:
    layer = Layer(2, 5, 12, 2, 1, 8)
    packed, *scales = layer.weights
    arguments = (*layer.rows, packed.data, packed.n, packed.k, *scales, *layer.heads, torch.rand(5, 5) < 0.9, True)
    torch.library.opcheck(torch.ops.pyprod.int8_self_attention.default, arguments)
    compiled = torch.compile(layer.__call__, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(), layer())
