"""int4_linear against its twin, bit for bit. Rerun under every instruction set by test_isa.py."""

import copy
import dataclasses
import io
import itertools
import pickle

import pytest
import torch

from pyprod.kernels.int4_linear import (
    Int4Weight,
    PackedInt4Weight,
    int4_linear,
    int4_linear_cost,
    int4_linear_reference,
    pack_int4_weight,
    quantize_int4_weight,
)

OPS = torch.ops.pyprod
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
# Around the tiles of 1 and 4 rows, the panel of 32 channels, a word of 8 k, and the group sizes.
SHAPES = [
    (1, 1, 1), (1, 33, 31), (2, 64, 128), (3, 31, 300), (5, 70, 129), (4, 96, 256), (9, 40, 65), (17, 32, 1000),
    (0, 4, 5), (3, 0, 5), (3, 5, 0),
]  # fmt: skip


def weight(n, k, group_size=32, zeros=False):
    """Any integers, with scales over many orders of magnitude."""
    groups = -(-k // group_size)
    q = torch.randint(16, (n, k), dtype=torch.uint8)
    scale = torch.exp(torch.randn(n, groups) * 2 - 5).half()
    zero_point = (torch.randn(n, groups) * 8).half() if zeros else None
    return Int4Weight(q, scale, zero_point, group_size)


def same(a, b):
    return (
        torch.equal(a.q, b.q)
        and torch.equal(a.scale, b.scale)
        and a.group_size == b.group_size
        and (torch.equal(a.zero_point, b.zero_point) if a.zero_point is not None else b.zero_point is None)
    )


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_same_bits(group_size, zeros, poison):
    for (m, n, k), dtype in zip(SHAPES, itertools.cycle(FLOATS), strict=False):
        w = weight(n, k, group_size, zeros)
        packed = pack_int4_weight(w)
        x = torch.randn(m, k).to(dtype)
        for bias in (None, torch.randn(n)):
            out = int4_linear(x, packed, bias)
            assert out.dtype == dtype
            assert torch.equal(out, int4_linear_reference(x, w, bias)), (m, n, k, dtype)


@pytest.mark.parametrize("zeros", [False, True])
def test_extremes_are_exact(zeros):
    """A group of 128 of the largest products: 243,840, still exact in float32, and no int16 saturates on the way."""
    for integer, activation in itertools.product((0, 15), (-1.0, 1.0)):
        zero_point = torch.full((40, 2), 15 - integer).half() if zeros else None
        q = torch.full((40, 256), integer, dtype=torch.uint8)
        w = Int4Weight(q, torch.ones(40, 2).half(), zero_point, 128)
        x = torch.full((5, 256), activation)
        out = int4_linear(x, pack_int4_weight(w))
        assert torch.equal(out, int4_linear_reference(x, w))
        want = (integer - (15 - integer if zeros else 8)) * activation * 256
        assert ((out - want).abs() <= 2**-22 * abs(want)).all()  # 127 times the scale 1 / 127


@pytest.mark.parametrize("zeros", [False, True])
def test_packed_weight_survives(zeros):
    for n, k in ((0, 0), (1, 1), (32, 32), (33, 65), (70, 300), (0, 9), (9, 0)):
        w = weight(n, k, 64, zeros)
        packed = pack_int4_weight(w)
        saved = io.BytesIO()
        torch.save(packed, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=True)
        for twin in (packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), loaded):
            assert isinstance(twin, PackedInt4Weight)
            assert same(twin.unpack(), w), (n, k)


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantizing_rounds_to_the_nearest(symmetric):
    """Half a step, or where the end of the range is cut (symmetric: 15 steps are 2 x 7.5 magnitudes) one; the scale is
    rounded to float16 (2^-11 of 15 steps)."""
    for k in (256, 100):
        w = torch.randn(40, k) + (0.5 if not symmetric else 0)
        made = quantize_int4_weight(w, 64, symmetric)
        assert made.q.max() <= 15
        assert (made.zero_point is None) == symmetric
        step = made.scale.float().repeat_interleave(64, 1)[:, :k]
        assert ((made.dequantize() - w).abs() <= step * (0.51 if symmetric else 1.01)).all()
    assert torch.equal(quantize_int4_weight(torch.zeros(3, 32)).dequantize(), torch.zeros(3, 32))


def test_a_weight_on_a_grid_of_its_own_is_kept():
    """That of GGUF's Q4_1: a float16 scale and minimum for 32 weights, the first and the last of 16 steps used."""
    q = torch.randint(16, (50, 10, 32)).float()
    q[..., 3], q[..., 7] = 0, 15
    step, least = (torch.rand(50, 10, 1) + 0.1).half().float(), torch.randn(50, 10, 1).half().float() * 3
    w = (q * step + least).flatten(1)
    made = quantize_int4_weight(w, 32, symmetric=False)
    assert torch.equal(made.q, q.flatten(1).to(torch.uint8))
    off = (made.dequantize() - w).view(50, 10, 32) / (step * 7.5 + least.abs())
    assert off.abs().max() < 2**-9


def test_groups_of_one_value_and_far_from_zero():
    for value in (0.0, 5.0, -5.0, 1e-6, 3e4):
        made = quantize_int4_weight(torch.full((2, 64), value), symmetric=False)
        assert torch.allclose(made.dequantize(), torch.tensor(value), rtol=2**-9, atol=1e-6)
    far = 100 + torch.rand(4, 64)
    assert (quantize_int4_weight(far, symmetric=False).dequantize() - far).abs().max() < 0.15


def test_the_whole_layer_is_close_to_float():
    """The error of 4 bits: a step / sqrt(12) each, where a step is the largest of 32 normal weights, 2.1 sigma, / 7.5:
    8% of the norm, and 9.5% where the range is cut at +7 of 8; 0.26% more or less from one draw to the next. That of
    8-bit activations: the largest of 500, 3 sigma, / 127 / sqrt(12): 0.7%."""
    w, x = torch.randn(200, 500) / 20, torch.randn(7, 500)
    made = quantize_int4_weight(w)
    want = x @ w.T
    assert (int4_linear(x, pack_int4_weight(made)) - want).norm() < 0.11 * want.norm()
    assert (int4_linear(x, pack_int4_weight(made)) - x @ made.dequantize().T).norm() < 0.02 * want.norm()


def test_leading_dimensions_and_strides():
    w = weight(40, 50)
    packed = pack_int4_weight(w)
    x = torch.randn(6, 10, 90)
    for view in (x[..., 20:70], x[0, 0, :50], x[:, :, :50].transpose(0, 1), x[..., 1:51]):
        out = int4_linear(view, packed)
        assert out.shape == (*view.shape[:-1], 40)
        assert torch.equal(out, int4_linear_reference(view, w))


def test_a_row_that_is_not_finite_gives_nan_and_harms_no_other():
    packed = pack_int4_weight(weight(40, 50))
    x = torch.randn(9, 50)
    clean = int4_linear(x, packed)
    x[3, 5], x[7, 49] = torch.nan, torch.inf
    out = int4_linear(x, packed)
    assert out[[3, 7]].isnan().all()
    kept = [i for i in range(9) if i not in (3, 7)]
    assert torch.equal(out[kept], clean[kept])


def test_threads_and_other_rows_change_nothing():
    w = weight(2000, 700)
    packed = pack_int4_weight(w)
    x = torch.randn(7, 700)
    want = int4_linear_reference(x, w)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(int4_linear(x, packed), want)
    finally:
        torch.set_num_threads(before)
    for row in range(7):
        assert torch.equal(int4_linear(x[row], packed), want[row])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 7, dtype=torch.float64)}, "x must be float32, bfloat16 or float16, got float64"),
        ({"x": torch.zeros(3, 6)}, r"x must be \[..., 7\], got \[3, 6\]"),
        ({"x": torch.tensor(1.0)}, "x must be"),
        ({"bias": torch.ones(4)}, r"bias must be \[5\], got \[4\]"),
        ({"bias": torch.ones(5).half()}, "bias must be float32, got float16"),
        ({"n": 33}, r"packed must be \[2, 1, 576\] for n=33, k=7, group_size=32, got \[1, 1, 576\]"),
        ({"group_size": 16}, "group_size must be 32, 64 or 128, got 16"),
        ({"n": -1}, "need n >= 0"),
        ({"x": torch.zeros(3, 7, requires_grad=True)}, "no gradient"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    packed = pack_int4_weight(weight(5, 7))
    good = {"x": torch.zeros(3, 7), "bias": None}
    fields = {key: value for key, value in change.items() if key not in good}
    int4_linear(packed=packed, **good)
    with pytest.raises(RuntimeError, match=f"int4_linear.*{message}"):
        int4_linear(
            packed=dataclasses.replace(packed, **fields), **good | {k: v for k, v in change.items() if k in good}
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(5, 40)}, r"q must be uint8 \[5, 40\], got float32 \[5, 40\]"),
        ({"q": torch.zeros(40, dtype=torch.uint8)}, r"q must be \[N, K\], got \[40\]"),
        ({"q": torch.full((5, 40), 16, dtype=torch.uint8)}, "q must be in 0..15, got 16"),
        ({"scale": torch.ones(5, 2)}, r"scale must be float16 \[5, 2\], got float32 \[5, 2\]"),
        ({"scale": torch.ones(5, 1).half()}, r"scale must be float16 \[5, 2\], got float16 \[5, 1\]"),
        ({"zero_point": torch.full((5, 2), 9, dtype=torch.uint8)}, r"zero_point must be float16 \[5, 2\], got uint8"),
        ({"zero_point": torch.full((5, 2), torch.inf).half()}, "zero_point must be finite"),
        ({"group_size": 48}, "group_size must be of"),
    ],
)
def test_wrong_weights_are_named(change, message):
    with pytest.raises(ValueError, match=f"pack_int4_weight: {message}"):
        pack_int4_weight(dataclasses.replace(weight(5, 40), **change))
    with pytest.raises(ValueError, match="group_size"):
        quantize_int4_weight(torch.zeros(3, 3), 16)


def test_opcheck_and_compile():
    packed = pack_int4_weight(weight(33, 70, 64, zeros=True))
    bias = torch.randn(33)
    torch.library.opcheck(OPS.int4_linear.default, (torch.randn(2, 3, 70).half(), packed.data, 33, 70, 64, True, bias))
    with pytest.raises(RuntimeError, match="x must be"):
        OPS.int4_linear.default(torch.empty(6, 29, device="meta"), packed.data.to("meta"), 33, 70, 64, True)

    def model(x, data, bias):
        return int4_linear(x, PackedInt4Weight(data, 33, 70, 64, True), bias) * 2

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (6, 9):
        x = torch.randn(rows, 70)
        assert torch.equal(compiled(x, packed.data, bias), model(x, packed.data, bias))


def test_cost():
    cost = int4_linear_cost(2, 3, 64, 32, zeros=True)
    assert cost.ops == 2 * 2 * 3 * 64
    assert cost.bytes == 3 * 32 + 2 * 3 * 2 * 2 + 12 + 2 * 67 * 4
