"""Data of the matrix products: quantized Gaussians, the same in every process, made at memory speed."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

#: (N, K): BERT-base, MiniLM, Llama-8B-like, ResNet by im2col, and sizes that fit no tile.
SIZES = tuple(
    {"n": n, "k": k}
    for n, k in (
        *((768, 768), (3072, 768), (768, 3072)),
        *((384, 384), (1536, 384), (384, 1536)),
        *((4096, 4096), (14336, 4096), (4096, 14336)),
        *((64, 576), (128, 1152), (512, 4608)),
        *((577, 331), (1000, 512), (31, 4097)),
    )
)


def gaussian_codes(rows: int, columns: int, seed: int) -> Tensor:
    """int8 ``[rows, columns]``: a Gaussian quantized to -127..127, each row reaching 127.

    Values are looked up from random bytes in the 256 quantiles of the Gaussian, which is far faster than drawing it.
    The first of each row is 127, so that quantizing the scaled row per channel finds exactly these integers again.
    """
    codes = np.take(_quantiles(), np.frombuffer(np.random.default_rng(seed).bytes(rows * columns), np.uint8))
    codes = codes.reshape(rows, columns)
    codes[:, :1] = 127
    return torch.from_numpy(codes)


@functools.cache
def _quantiles() -> NDArray[np.int8]:
    quantiles = stats.norm.ppf((np.arange(256) + 0.5) / 256)
    return np.asarray(np.rint(quantiles * (127 / quantiles[-1])), dtype=np.int8)


def checked_rows(m: int) -> Tensor:
    """Which rows of m are compared, at most 32: first, last, and evenly between; all would take hours."""
    return torch.linspace(0, m - 1, min(m, 32)).round().long()
