"""int4_linear: weights of 4 bits in groups along K times activations quantized per token, for decoding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake, refuse_gradient
from pyprod.kernels.quantize import quantize_per_token_reference

__all__ = [
    "Int4Weight",
    "PackedInt4Weight",
    "int4_linear",
    "int4_linear_cost",
    "int4_linear_reference",
    "pack_int4_weight",
    "quantize_int4_weight",
]

PANEL = 32  # output channels that lie together; csrc/int4_linear/layout.h describes the layout
GROUP_SIZES = (32, 64, 128)
_TINY = 2.0**-24  # the smallest positive float16


@dataclass(frozen=True, eq=False)
class Int4Weight:
    """``w = (q - zero_point) * scale``, scale and zero point per channel and group of `group_size` neighboring k.

    Attributes:
        q: uint8 ``[N, K]`` in 0..15.
        scale: float16 ``[N, ceil(K / group_size)]``, as GPTQ, AWQ and GGUF files hold it.
        zero_point: float16 ``[N, ceil(K / group_size)]``, finite: an integer of 0..15 as in GPTQ and AWQ, or any
            number, as follows from the minimum that GGUF's Q4_1 holds; None: 8 everywhere (symmetric).
        group_size: 32, 64 or 128; K need not be a multiple of it.
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor | None
    group_size: int

    def dequantize(self) -> Tensor:
        """The float32 weight ``[N, K]`` that the integers stand for."""
        columns = torch.arange(self.q.shape[1], device=self.q.device) // self.group_size
        zero = 8.0 if self.zero_point is None else self.zero_point.float()[:, columns]
        return (self.q.float() - zero) * self.scale.float()[:, columns]


@dataclass(frozen=True, eq=False)
class PackedInt4Weight:
    """An `Int4Weight` in the order the kernels read it. Make one with `pack_int4_weight`.

    Attributes:
        data: uint8 ``[ceil(n / 32), ceil(k / group_size), bytes of a group]``, contiguous.
        n: output channels.
        k: input channels.
        group_size: 32, 64 or 128.
        zeros: whether it has zero points.
    """

    data: Tensor
    n: int
    k: int
    group_size: int
    zeros: bool

    def unpack(self) -> Int4Weight:
        """The weight that was packed, exactly."""
        panels, groups = self.data.shape[:2]
        header = 2 * PANEL
        zero = self._header(1) if self.zeros else None
        words = self.data[:, :, header * (1 + self.zeros) :].reshape(panels, groups, self.group_size // 8, PANEL, 4)
        nibbles = torch.stack([words & 15, words >> 4], -2)  # [panels, groups, words, channels, 2, 4]
        q = nibbles.permute(0, 3, 1, 2, 4, 5).reshape(panels * PANEL, groups * self.group_size)
        return Int4Weight(q[: self.n, : self.k].contiguous(), self._header(0), zero, self.group_size)

    def _header(self, index: int) -> Tensor:
        """The index-th 32 float16 of each group as ``[n, groups]``."""
        panels, groups = self.data.shape[:2]
        part = self.data.view(torch.float16)[:, :, PANEL * index : PANEL * (index + 1)]
        return part.transpose(1, 2).reshape(panels * PANEL, groups)[: self.n].contiguous()


torch.serialization.add_safe_globals([Int4Weight, PackedInt4Weight])


def quantize_int4_weight(w: Tensor, group_size: int = 32, symmetric: bool = True) -> Int4Weight:
    """Round a float weight to 4 bits per group: by its largest magnitude / 7.5, or (asymmetric) from least to largest.

    A weight whose groups have 16 evenly spaced values, the first and the last of them used, is kept as it is by the
    asymmetric way, but for float16's rounding of scale and zero point.

    Args:
        w: ``[N, K]``, finite, float.
        group_size: 32, 64 or 128.
        symmetric: whether all zero points are 8.

    Raises:
        ValueError: w has another shape, or group_size is none of these.
    """
    if w.dim() != 2 or group_size not in GROUP_SIZES:
        raise ValueError(
            f"quantize_int4_weight: need w [N, K] and group_size of {GROUP_SIZES}, got {list(w.shape)} and {group_size}"
        )
    n, k = w.shape
    groups = math.ceil(k / group_size)
    # Repeating the last value changes no minimum or maximum of the last group.
    columns = torch.arange(groups * group_size, device=w.device).clamp(max=max(0, k - 1))
    grouped = (w.float()[:, columns] if k else w.float()).reshape(n, groups, group_size)
    if symmetric:
        scale = (grouped.abs().amax(-1) / 7.5).clamp(min=_TINY).half()
        zero = None
        offset = torch.tensor(8.0)
    else:
        low, high = grouped.amin(-1), grouped.amax(-1)
        narrow = (high - low) < torch.maximum(low.abs(), high.abs()) / 1000  # far from zero, where float16 is coarse
        low, high = torch.where(narrow, low.clamp(max=0), low), torch.where(narrow, high.clamp(min=0), high)
        scale = ((high - low) / 15).clamp(min=_TINY).half()
        zero = (-low / scale.float()).half()
        offset = zero.float()[..., None]
    q = torch.round(grouped / scale.float()[..., None] + offset).clamp(0, 15).to(torch.uint8)
    return Int4Weight(q.reshape(n, groups * group_size)[:, :k].contiguous(), scale, zero, group_size)


def pack_int4_weight(weight: Int4Weight) -> PackedInt4Weight:
    """Reorder a weight once, so that each call reads it front to back.

    Raises:
        ValueError: a part of it has a wrong dtype, shape or value; the message names it.
    """
    _check(weight)
    n, k = weight.q.shape
    groups, words = weight.scale.shape[1], weight.group_size // 8
    panels = math.ceil(n / PANEL)
    rows = panels * PANEL - n
    q = functional.pad(weight.q, (0, groups * weight.group_size - k, 0, rows))
    nibbles = q.reshape(panels, PANEL, groups, words, 2, 4).permute(4, 0, 2, 3, 1, 5)
    parts = [weight.scale] if weight.zero_point is None else [weight.scale, weight.zero_point]
    headers = [
        functional.pad(p, (0, 0, 0, rows)).reshape(panels, PANEL, groups).transpose(1, 2).contiguous() for p in parts
    ]
    data = torch.cat(
        [*(h.view(torch.uint8) for h in headers), (nibbles[0] | nibbles[1] << 4).reshape(panels, groups, words * 128)],
        -1,
    )
    return PackedInt4Weight(data, n, k, weight.group_size, weight.zero_point is not None)


def _check(weight: Int4Weight) -> None:
    if weight.group_size not in GROUP_SIZES:
        raise ValueError(f"pack_int4_weight: group_size must be of {GROUP_SIZES}, got {weight.group_size}")
    if weight.q.dim() != 2:
        raise ValueError(f"pack_int4_weight: q must be [N, K], got {list(weight.q.shape)}")
    n, k = weight.q.shape
    shape = [n, math.ceil(k / weight.group_size)]
    for name, part, dtype, size in (
        ("q", weight.q, torch.uint8, [n, k]),
        ("scale", weight.scale, torch.float16, shape),
        ("zero_point", weight.zero_point, torch.float16, shape),
    ):
        if part is None:
            continue
        if part.dtype != dtype or list(part.shape) != size:
            got = f"{str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
            raise ValueError(f"pack_int4_weight: {name} must be {str(dtype).removeprefix('torch.')} {size}, got {got}")
        if name == "q" and part.numel() and part.max() > 15:
            raise ValueError(f"pack_int4_weight: q must be in 0..15, got {part.max().item()}")
        if name == "zero_point" and not part.isfinite().all():
            raise ValueError("pack_int4_weight: zero_point must be finite")


def int4_linear(x: Tensor, packed: PackedInt4Weight, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` with x quantized to int8 per token on the fly.

    The product of each group is exact in integers; its zero point times the sum of its activations is taken off in
    float32, exactly where the zero point is an integer; groups are added from front to back, then multiplied by the
    row's scale. Every instruction set gives the same bits. Inference only. Made for few rows, where reading the weight
    is what takes time; for many (32 and more), int8_linear is faster.

    Args:
        x: ``[..., K]``, float32, bfloat16 or float16, CPU.
        packed: weight ``[N, K]``.
        bias: float32 ``[N]``, contiguous.

    Returns:
        ``[..., N]``, contiguous, in the dtype of x. A row of x that holds a NaN or an infinity gives a row of NaN.

    Raises:
        RuntimeError: an argument has a wrong dtype, shape or device, or needs a gradient; the message names it.
    """
    refuse_gradient("int4_linear", x, bias)
    out: Tensor = torch.ops.pyprod.int4_linear.default(
        x, packed.data, packed.n, packed.k, packed.group_size, packed.zeros, bias
    )
    return out


def int4_linear_reference(x: Tensor, weight: Int4Weight, bias: Tensor | None = None) -> Tensor:
    """The same bits, slowly."""
    q, row_scale = quantize_per_token_reference(x)
    zero = torch.full(weight.scale.shape, 8.0) if weight.zero_point is None else weight.zero_point.float()
    acc = torch.zeros(*x.shape[:-1], weight.q.shape[0])
    for g, start in enumerate(range(0, x.shape[-1], weight.group_size)):
        rows = q[..., start : start + weight.group_size].double()
        product = (rows @ weight.q[:, start : start + weight.group_size].double().T).float()
        shift = zero[:, g] * rows.sum(-1, keepdim=True).float()
        acc = acc + (product - shift) * weight.scale[:, g].float()
    y = acc * row_scale[..., None]
    return (y if bias is None else y + bias).to(x.dtype)


def int4_linear_cost(m: int, n: int, k: int, group_size: int, zeros: bool = False, itemsize: int = 4) -> Cost:
    """Cost of ``[m, k] @ [n, k].T`` with scales and zero points in float16, and bias."""
    groups = math.ceil(k / group_size)
    weight = n * math.ceil(k / 2) + 2 * n * groups * (1 + zeros)
    return Cost(ops=2 * m * n * k, bytes=weight + 4 * n + m * (k + n) * itemsize)


@fake("int4_linear")
def _fake(
    x: Tensor, packed: Tensor, n: int, k: int, group_size: int, zeros: bool, bias: Tensor | None = None
) -> Tensor:
    if x.shape[-1] != k:
        raise RuntimeError(f"int4_linear: x must be [..., {k}], got {list(x.shape)}")
    return x.new_empty((*x.shape[:-1], n))
