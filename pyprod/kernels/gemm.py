"""int8_gemm and the packed weights that it and int8_linear read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pyprod.kernels._cost import Cost
from pyprod.kernels._library import fake

__all__ = ["PackedWeight", "int8_gemm", "int8_gemm_cost", "int8_gemm_reference", "pack_weight"]

PANEL = 32  # output channels that lie together; csrc/int8_gemm/layout.h describes the layout
MAX_K = 2**17 - 1  # a sum of K products of two int8 must fit int32

_op = torch.ops.pyprod.int8_gemm.default


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """An int8 weight ``[n, k]`` in the order the kernels read it, the same bytes on CPU and CUDA.

    Make one with `pack_weight`. It can be pickled, deep-copied, and saved by ``torch.save``.

    Attributes:
        data: int8 ``[ceil(n / 32), 1 + ceil(k / 4), 32, 4]``, contiguous.
        n: output channels.
        k: input channels.
    """

    data: Tensor
    n: int
    k: int

    def unpack(self) -> Tensor:
        """The weight that was packed, int8 ``[n, k]``, exactly."""
        panels, rows = self.data.shape[:2]
        words = self.data[:, 1:].transpose(1, 2)
        return words.reshape(panels * PANEL, (rows - 1) * 4)[: self.n, : self.k].contiguous()

    def to(self, device: torch.device | str) -> PackedWeight:
        """The same weight on `device`."""
        return PackedWeight(self.data.to(device), self.n, self.k)


torch.serialization.add_safe_globals([PackedWeight])


def pack_weight(w_q: Tensor) -> PackedWeight:
    """Reorder an int8 weight once, so that each call reads it front to back.

    Args:
        w_q: int8 ``[N, K]``, any strides, any device; K < 2**17.

    Raises:
        ValueError: w_q has another dtype or shape.
    """
    if w_q.dtype != torch.int8:
        raise ValueError(f"pack_weight: w_q must be int8, got {str(w_q.dtype).removeprefix('torch.')}")
    if w_q.dim() != 2 or w_q.shape[1] > MAX_K:
        raise ValueError(f"pack_weight: w_q must be [N, K] with K <= {MAX_K}, got {list(w_q.shape)}")
    n, k = w_q.shape
    padded = functional.pad(w_q, (0, -k % 4, 0, -n % PANEL))
    panels, words = padded.shape[0] // PANEL, padded.shape[1] // 4
    weights = padded.view(panels, PANEL, words, 4).transpose(1, 2)
    compensation = -128 * padded.sum(1, dtype=torch.int32)
    first_row = compensation.view(panels, 1, PANEL, 1).view(torch.int8)
    return PackedWeight(torch.cat([first_row, weights], 1), n, k)


def int8_gemm(a: Tensor, packed: PackedWeight) -> Tensor:
    """``a @ w.T`` of int8 matrices, exact.

    Args:
        a: int8 ``[M, K]``, any strides.
        packed: weight ``[N, K]`` on the same device.

    Returns:
        int32 ``[M, N]``.

    Raises:
        RuntimeError: a or packed has a wrong dtype, shape or device; the message names it.
    """
    out: Tensor = _op(a, packed.data, packed.n, packed.k)
    return out


def int8_gemm_reference(a: Tensor, w_q: Tensor) -> Tensor:
    """The same, slowly: products of int8 and their sums below 2**53 are exact in float64."""
    return (a.double() @ w_q.double().T).to(torch.int32)


def int8_gemm_cost(m: int, n: int, k: int) -> Cost:
    """Cost of ``[m, k] @ [n, k].T`` to int32."""
    return Cost(ops=2 * m * n * k, bytes=m * k + n * k + 4 * m * n)


@fake("int8_gemm")
def _fake(a: Tensor, packed: Tensor, n: int, k: int) -> Tensor:
    if a.dim() != 2 or a.shape[1] != k:
        raise RuntimeError(f"int8_gemm: a must be [M, {k}], got {list(a.shape)}")
    return a.new_empty((a.shape[0], n), dtype=torch.int32)
