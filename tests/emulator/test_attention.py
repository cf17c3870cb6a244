"""int8_attention as it is written for the GPU, on the emulator, against the CPU's op: the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyprod.kernels import int8_attention
from tests.emulator.library import ASYNCHRONY, FLOATS, Emulator

#: (batch, heads, key heads, queries, keys, depth): one of each, tiles of 64 queries and keys and off them, depths of
#: all three kernels and off them, heads that share keys.
SHAPES = [
    (1, 1, 1, 1, 1, 1), (2, 3, 3, 17, 33, 32), (1, 4, 2, 64, 64, 64), (1, 2, 1, 65, 129, 48), (2, 2, 2, 3, 200, 128),
    (1, 6, 3, 70, 63, 20), (1, 1, 1, 130, 65, 100),
]  # fmt: skip


def heads(b: int, h: int, s: int, d: int, dtype: torch.dtype) -> Tensor:
    """As a projection gives them: heads side by side, keys far from 0."""
    return (torch.randn(b, s, h, d) + torch.randn(d)).to(dtype).transpose(1, 2)


def same(got: Tensor, want: Tensor) -> bool:
    return torch.equal(got.float().nan_to_num(99.0), want.float().nan_to_num(99.0))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_as_on_the_cpu(emulator_library: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    b, h, kv, s, t, d = shape
    q, k, v = heads(b, h, s, d, dtype), heads(b, kv, t, d, dtype), heads(b, kv, t, d, dtype)
    for seed, asynchrony in enumerate(ASYNCHRONY):
        got = Emulator(emulator_library, 8, asynchrony, seed).attention(q, k, v, None, False, None)
        assert same(got, int8_attention(q, k, v)), asynchrony


@pytest.mark.parametrize("kind", ["bool", "per_key", "float", "half", "all_hidden"])
@pytest.mark.parametrize("causal", [False, True])
def test_masks(emulator_library: Path, kind: str, causal: bool) -> None:
    b, h, kv, s, t, d = 2, 4, 2, 70, 70, 32
    q, k, v = (heads(b, n, s, d, torch.float32) for n in (h, kv, kv))
    mask = {
        "bool": torch.rand(b, h, s, t) < 0.6,
        "per_key": torch.rand(b, 1, 1, t) < 0.6,
        "float": torch.randn(h, s, t),
        "half": torch.randn(s, t).half(),
        "all_hidden": torch.zeros(s, t, dtype=torch.bool),
    }[kind]
    got = Emulator(emulator_library, 8).attention(q, k, v, mask, causal, 0.2)
    assert same(got, int8_attention(q, k, v, mask, causal, 0.2))


@pytest.mark.parametrize("where", ["query", "key", "value", "mask", "huge"])
def test_what_is_not_finite_reaches_what_it_must(emulator_library: Path, where: str) -> None:
    q, k, v = (heads(1, 2, 40, 32, torch.float32).clone() for _ in range(3))
    mask = torch.zeros(40, 40)
    if where == "mask":
        mask[3, 5] = torch.inf
    elif where == "huge":
        q *= 1e30
        k *= 1e30
    else:
        {"query": q, "key": k, "value": v}[where][0, 1, 7, 3] = torch.nan
    got = Emulator(emulator_library, 8).attention(q, k, v, mask, False, None)
    want = int8_attention(q, k, v, mask)
    assert torch.equal(got.isnan(), want.isnan())
    assert want.isnan().any()
    assert same(got, want)
