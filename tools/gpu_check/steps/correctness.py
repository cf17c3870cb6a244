"""int32 sums bit for bit on shapes at every edge, over poisoned outputs; the rest against the CPU's ops."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyprod import kernels
from tools.gpu_check import data

#: Around the tiles of tokens of every kernel.
ROWS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 300, 1000)
CHANNELS = (1, 31, 32, 33, 127, 128, 129, 256, 257, 1000, 4096)
DEPTHS = (1, 3, 4, 15, 16, 17, 63, 64, 65, 127, 128, 129, 511, 512, 1000, 4096, 8192, 14336)
#: Samples, heads, key heads, queries, keys, depth.
HEADS = ((1, 1, 1, 1, 1, 1), (2, 12, 12, 128, 128, 32), (1, 8, 2, 65, 300, 64), (2, 4, 4, 70, 33, 128))
RANDOM_SHAPES = 400
REPEATS = 20


def run(_out: Path) -> dict[str, Any]:
    """Every check; what fails is a line, and the others go on."""
    wrong: list[str] = []
    counts = {name: _count(checks(), wrong) for name, checks in CHECKS.items()}
    return {"checked": counts, "wrong": wrong}


def _count(checks: Iterator[tuple[str, bool]], wrong: list[str]) -> int:
    count = 0
    for what, right in checks:
        count += 1
        if not right:
            wrong.append(what)
    return count


def sums() -> Iterator[tuple[str, bool]]:
    """int8_gemm: every edge of m with some n and k, then shapes at random."""
    rng = random.Random(0)
    shapes = [(m, rng.choice(CHANNELS), rng.choice(DEPTHS)) for m in ROWS for _ in range(8)]
    shapes += [tuple(rng.randint(1, 600) for _ in range(3)) for _ in range(RANDOM_SHAPES)]
    shapes += [(0, 40, 40), (40, 0, 40), (40, 40, 0), (4096, 4096, 4096), (2048, 14336, 1024)]
    for m, n, k in shapes:
        a, w = data.codes(m, k, "uniform"), data.codes(n, k, "uniform")
        packed = kernels.pack_weight(w)
        data.poisoned(m, n)
        yield f"int8_gemm: m={m} n={n} k={k}", torch.equal(kernels.int8_gemm(a, packed), data.exact(a, w))


def strides() -> Iterator[tuple[str, bool]]:
    """Activations that are no plain matrix of their own."""
    w = data.codes(300, 96, "uniform")
    packed = kernels.pack_weight(w)
    wide = data.codes(50, 300, "uniform")
    for name, a in {
        "a slice": wide[:, 32:128],
        "an odd slice": wide[:, 33:129],
        "every other row": wide[::2, :96],
        "transposed": data.codes(96, 50, "uniform").T,
        "one row for all": data.codes(1, 96, "uniform").expand(20, 96),
    }.items():
        yield f"int8_gemm of {name}", torch.equal(kernels.int8_gemm(a, packed), data.exact(a, w))


def repeats() -> Iterator[tuple[str, bool]]:
    """The same call gives the same bits, alone and in a larger batch: sums are integers, whoever adds them up."""
    for n, k in [(384, 1536), (4096, 4096)]:
        packed, scale = kernels.pack_weight(data.codes(n, k)), torch.rand(n, device=data.DEVICE)
        x = torch.randn(300, k, device=data.DEVICE)
        whole = kernels.int8_linear(x, packed, scale)
        for m in (1, 5, 17, 100, 300):
            for _ in range(REPEATS):
                same = torch.equal(kernels.int8_linear(x[:m], packed, scale), whole[:m])
                yield f"int8_linear: m={m} n={n} k={k} differs from the same rows of a larger batch", same


def epilogues() -> Iterator[tuple[str, bool]]:
    """Whole layers against the CPU's ops: the same operations in the same order."""
    for m, n, k in [(1, 64, 100), (33, 129, 257), (200, 384, 384)]:
        w = data.codes(n, k).cpu()
        packed, scale, bias = kernels.pack_weight(w), torch.rand(n) / 100, torch.randn(n)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x, residual = torch.randn(m, k).to(dtype), torch.randn(m, n).to(dtype)
            for activation in (None, "relu", "gelu", "gelu_tanh", "silu"):
                multiplier = torch.rand(k) if activation == "gelu" else None
                given = (bias, activation, residual, None, multiplier, activation in ("relu", "gelu"))
                want = kernels.int8_linear(x, packed, scale, *given)
                there = [None if g is None else g.to(data.DEVICE) if isinstance(g, Tensor) else g for g in given]
                got = kernels.int8_linear(x.to(data.DEVICE), packed.to(data.DEVICE), scale.to(data.DEVICE), *there)
                yield f"int8_linear: {m}x{n}x{k} {dtype} {activation}", _close(got, want, 1e-5)


def rows() -> Iterator[tuple[str, bool]]:
    """Norms and activations; sums over a row are taken in another order than on the CPU."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for m, k in [(1, 1), (3, 7), (5, 768), (4, 4096), (2, 11008), (3, 20001)]:
            x, other, weight, bias = (
                torch.randn(m, k).to(dtype),
                torch.randn(m, k).to(dtype),
                torch.rand(k),
                torch.rand(k),
            )
            calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
                "quantize_per_token": (kernels.quantize_per_token, (x,)),
                "silu_mul_quantize": (kernels.silu_mul_quantize, (x, other)),
                "gelu_quantize": (kernels.gelu_quantize, (x,)),
                "add_rms_norm": (kernels.add_rms_norm, (x, other, weight, 1e-6)),
                "add_layer_norm": (kernels.add_layer_norm, (x, other, weight, bias, 1e-5)),
                "rms_norm_quantize": (kernels.rms_norm_quantize, (x, weight, 1e-6)),
                "layer_norm_quantize": (kernels.layer_norm_quantize, (x, weight, bias, 1e-5)),
                "layer_norm_quantize of a multiplier": (kernels.layer_norm_quantize, (x, weight, bias, 1e-5, weight)),
            }
            for name, (call, given) in calls.items():
                want = call(*given)
                got = call(*(g.to(data.DEVICE) if isinstance(g, Tensor) else g for g in given))
                alike = all(_close(g, w, 1e-5 + torch.finfo(dtype).eps) for g, w in zip(got, want, strict=True))
                yield f"{name}: {m}x{k} {dtype}", alike


def attention() -> Iterator[tuple[str, bool]]:
    """Against the CPU's op: the same bits."""
    for b, h, kv, s, t, d in HEADS:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            q, k, v = (torch.randn(b, n, tokens, d).to(dtype) for n, tokens in ((h, s), (kv, t), (kv, t)))
            for mask in (None, torch.rand(b, 1, 1, t) < 0.7, torch.randn(s, t)):
                want = kernels.int8_attention(q, k, v, mask)
                there = [None if x is None else x.to(data.DEVICE) for x in (q, k, v, mask)]
                got = kernels.int8_attention(*there).cpu()
                yield f"int8_attention: {(b, h, kv, s, t, d)} {dtype}", torch.equal(got, want)


def _close(got: Tensor, want: Tensor, tolerance: float) -> bool:
    """Floats within `tolerance` of the largest; codes within one step, and few of them."""
    got = got.cpu()
    if want.dtype == torch.int8:
        off = (got.int() - want.int()).abs()
        return bool(off.max() <= 1 and off.sum() <= 1 + off.numel() // 200) if off.numel() else True
    size = float(want.float().abs().max()) if want.numel() else 0.0
    return bool(((got.float() - want.float()).abs() <= tolerance * size).all())


CHECKS = {
    "sums": sums,
    "strides": strides,
    "repeats": repeats,
    "epilogues": epilogues,
    "rows": rows,
    "attention": attention,
}
