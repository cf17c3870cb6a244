"""The GEMM kernels as they are written for the GPU, on the emulator: int32 sums bit for bit, on ugly shapes, whatever
the order of what the hardware does."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from pyprod.kernels import int8_gemm_reference, int8_linear_prequantized, int8_linear_static, pack_weight
from pyprod.kernels.linear import dequantize_reference
from tests.emulator.library import ACTIVATIONS, ASYNCHRONY, FLOATS, Emulator

#: Compute capabilities whose kernels differ: mma.sync, and wgmma with tensor copies.
MAJORS = (8, 9)
#: m at the edges of every kernel's tile of tokens, n and k around panels, stages and words of four k.
SHAPES = [
    (1, 1, 1), (1, 33, 5), (2, 128, 128), (7, 31, 127), (8, 160, 129), (9, 32, 256), (16, 97, 63), (17, 130, 300),
    (32, 127, 64), (33, 36, 33), (64, 129, 65), (65, 64, 130), (128, 5, 140), (129, 257, 129), (150, 256, 384),
    (3, 40, 1100), (300, 33, 17),
]  # fmt: skip


def random_int8(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("asynchrony", ASYNCHRONY)
def test_sums_are_exact(emulator_library: Path, major: int, asynchrony: str) -> None:
    for seed, (m, n, k) in enumerate(SHAPES):
        a, w = random_int8(m, k), random_int8(n, k)
        emulator = Emulator(emulator_library, major, asynchrony, seed)
        got = emulator.gemm(a, pack_weight(w))
        assert torch.equal(got, int8_gemm_reference(a, w)), f"m={m} n={n} k={k}"


@pytest.mark.parametrize("major", MAJORS)
def test_any_order_of_events_gives_the_same(emulator_library: Path, major: int) -> None:
    for m, n, k in [(5, 70, 700), (40, 130, 400), (140, 256, 520)]:
        a, w = random_int8(m, k), random_int8(n, k)
        for seed in range(8):
            got = Emulator(emulator_library, major, seed=int(torch.randint(2**31, ()))).gemm(a, pack_weight(w))
            assert torch.equal(got, int8_gemm_reference(a, w)), f"m={m} n={n} k={k} seed={seed}"


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("m", [1, 20, 140])
def test_an_empty_sum_is_zero(emulator_library: Path, major: int, m: int) -> None:
    got = Emulator(emulator_library, major).gemm(random_int8(m, 0), pack_weight(random_int8(40, 0)))
    assert torch.equal(got, torch.zeros(m, 40, dtype=torch.int32))


@pytest.mark.parametrize("processors", [1, 2, 16, 132])
def test_however_many_blocks_share_the_work(emulator_library: Path, processors: int) -> None:
    """One block takes every tile in turn; clusters of up to eight share a tile's k."""
    for m, n, k in [(3, 50, 2100), (30, 200, 1030), (270, 520, 260)]:
        a, w = random_int8(m, k), random_int8(n, k)
        got = Emulator(emulator_library, 9, processors=processors).gemm(a, pack_weight(w))
        assert torch.equal(got, int8_gemm_reference(a, w)), f"m={m} n={n} k={k}"


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("m", [3, 70, 140])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogue_is_the_cpu_kernel_s(emulator_library: Path, major: int, m: int, activation: str | None) -> None:
    """The same operations in the same order: the same bits, on whole groups of four channels and off them."""
    k, emulator = 50, Emulator(emulator_library, major)
    for n, dtype in itertools.product((64, 37), FLOATS):
        q, packed = random_int8(m, k), pack_weight(random_int8(n, k))
        row_scale, scale = torch.rand(m) / 100, torch.rand(n) / 100
        bias = torch.randn(n) if n == 64 else None
        residual = torch.randn(m, n).to(dtype) if activation != "relu" else None
        end = (bias, activation, residual, dtype)
        got = emulator.linear(q, packed, row_scale, scale, *end)
        assert torch.equal(got, int8_linear_prequantized(q, row_scale, packed, scale, *end))
        w, zero_point = packed.unpack(), torch.randint(-128, 128, (m,), dtype=torch.int32)
        got = emulator.linear(q, packed, row_scale, scale, bias, None, residual, dtype, row_zero_point=zero_point)
        sums = int8_gemm_reference(q, w) - zero_point[:, None] * w.sum(1, dtype=torch.int32)
        assert torch.equal(got, dequantize_reference(sums, row_scale, scale, bias, None, residual).to(dtype))


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("m", [3, 140])
@pytest.mark.parametrize("x_dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("out_dtype", [torch.int8, torch.uint8, torch.float32])
def test_static_epilogue_is_the_cpu_kernel_s(
    emulator_library: Path, major: int, m: int, x_dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    """Zero points on both sides, saturation, and a NaN, which gives the least integer."""
    k, emulator = 70, Emulator(emulator_library, major)
    for n in (36, 61):
        q, packed = torch.randint(0, 256, (m, k)).to(x_dtype), pack_weight(random_int8(n, k))
        low = torch.iinfo(x_dtype).min
        zero, scale = int(torch.randint(low, low + 256, ())), torch.rand(n) / 100
        residual = torch.randn(m, n)
        residual[0, 0] = torch.nan
        given = {} if out_dtype == torch.float32 else {"out_scale": 0.037, "out_zero_point": 5}
        want = int8_linear_static(
            q, 0.02, zero, packed, scale, activation="gelu", residual=residual, out_dtype=out_dtype, **given
        )
        static = {"zero_point": zero - 128 * (x_dtype == torch.uint8)}
        if given:
            static |= {"out_inverse_scale": float(1 / torch.tensor(0.037)), "out_zero_point": 5}
        got = emulator.linear(q, packed, 0.02, scale, None, "gelu", residual, out_dtype, **static)
        assert torch.equal(got.nan_to_num(9), want.nan_to_num(9))
