"""The CUDA kernels that take one row each, on the emulator, against the CPU's: whole packets of eight and off them,
rows that one warp takes and rows that do not fit its block's registers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyprod.kernels import (
    add_layer_norm,
    add_layer_norm_quantize,
    add_rms_norm,
    add_rms_norm_quantize,
    gelu_quantize,
    layer_norm_quantize,
    quantize_per_token,
    rms_norm_quantize,
    silu_mul_quantize,
)
from pyprod.kernels.quantize import quantize_asymmetric_reference
from tests.emulator.library import FLOATS, Emulator

SIZES = [0, 1, 7, 8, 9, 255, 256, 513, 1032, 9000]


def matrix(m: int, k: int, dtype: torch.dtype) -> Tensor:
    """With rows that lie apart, aligned to packets or not."""
    gap = int(torch.randint(0, 10, ()))
    return (3 * torch.randn(m, k + gap)).to(dtype)[:, :k]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", SIZES)
def test_quantize(emulator_library: Path, dtype: torch.dtype, k: int) -> None:
    x = matrix(3, k, dtype)
    if k > 1:
        x[1, k // 2] = torch.nan
    for multiplier in (None, torch.rand(k) + 0.1):
        q, scale = Emulator(emulator_library, 9).quantize(x, -k % 16, multiplier)
        want_q, want_scale = quantize_per_token(x if multiplier is None else x * multiplier)
        assert torch.equal(q[:, :k], want_q)
        assert not q[:, k:].any()
        assert torch.equal(scale.nan_to_num(7), want_scale.nan_to_num(7))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", SIZES)
def test_quantize_with_zero_points(emulator_library: Path, dtype: torch.dtype, k: int) -> None:
    x = matrix(5, k, dtype)
    x[0], x[2] = x[0].abs(), -x[2].abs()
    if k > 1:
        x[1, k // 2] = torch.nan
    for multiplier in (None, torch.rand(k) + 0.1):
        zero_point = torch.full((5,), 0x5555, dtype=torch.int32)
        q, scale = Emulator(emulator_library, 9).quantize(x, -k % 16, multiplier, zero_point)
        want_q, want_scale, want = quantize_asymmetric_reference(x if multiplier is None else x * multiplier)
        assert torch.equal(q[:, :k], want_q)
        assert not q[:, k:].any()
        assert torch.equal(scale.nan_to_num(7), want_scale.nan_to_num(7))
        assert torch.equal(zero_point, want)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("k", SIZES)
def test_pad(emulator_library: Path, dtype: torch.dtype, k: int) -> None:
    x = torch.randint(0, 256, (3, k + 5)).to(dtype)[:, :k]
    got = Emulator(emulator_library, 9).pad(x)
    assert torch.equal(got[:, :k].to(torch.int16), x.to(torch.int16) - 128 * (dtype == torch.uint8))
    assert not got[:, k:].any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", SIZES)
def test_activations(emulator_library: Path, dtype: torch.dtype, k: int) -> None:
    """The same operations in the same order: the same bits."""
    emulator, x, up = Emulator(emulator_library, 9), matrix(2, k, dtype), matrix(2, k, dtype)
    for got, want in [
        (emulator.activation("silu_mul", x, up), silu_mul_quantize(x, up)),
        (emulator.activation("gelu", x), gelu_quantize(x)),
        (emulator.activation("gelu_tanh", x), gelu_quantize(x, approximate="tanh")),
    ]:
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("k", "center"), list(itertools.product(SIZES, (False, True))))
def test_norms(emulator_library: Path, dtype: torch.dtype, k: int, center: bool) -> None:
    """A row's sums are taken in another order: the factor is off by some 2**-24 sqrt(k), what is rounded by a step."""
    x, residual = matrix(2, k, dtype), matrix(2, k, dtype)
    weight, bias, multiplier = torch.rand(k) + 0.5, *((torch.randn(k), torch.rand(k)) if center else (None, None))
    emulator, eps = Emulator(emulator_library, 9), 1e-5
    got_q, got_scale, got_normalized, got_sum = emulator.norm(
        x, residual, weight, bias, eps, center=center, multiplier=multiplier
    )
    if center:
        q, scale, total = add_layer_norm_quantize(x, residual, weight, bias, eps, multiplier=multiplier)
        normalized, _ = add_layer_norm(x, residual, weight, bias, eps)
    else:
        q, scale, total = add_rms_norm_quantize(x, residual, weight, eps)
        normalized, _ = add_rms_norm(x, residual, weight, eps)
    assert torch.equal(got_sum, total)
    close = {"rtol": 1e-5 + torch.finfo(dtype).eps, "atol": 1e-5}
    torch.testing.assert_close(got_normalized, normalized, **close)
    torch.testing.assert_close(got_scale, scale, rtol=1e-5, atol=0)
    assert (got_q.int() - q.int()).abs().sum() <= 1 + q.numel() // 500
    got_q, got_scale, *_ = emulator.norm(x, None, None, None, eps, center=center)
    q, scale = layer_norm_quantize(x, None, None, eps) if center else rms_norm_quantize(x, None, eps)
    torch.testing.assert_close(got_scale, scale, rtol=1e-5, atol=0)
    assert (got_q.int() - q.int()).abs().sum() <= 1 + q.numel() // 500


def test_a_row_with_a_nan_is_nan(emulator_library: Path) -> None:
    x = torch.randn(3, 300)
    x[1, 77] = torch.inf
    emulator = Emulator(emulator_library, 9)
    for q, scale in [emulator.norm(x, None, None, None, 1e-5, center=True)[:2], emulator.activation("gelu", x)]:
        assert scale.isnan().tolist() == [False, True, False]
        assert not q[1].any()
