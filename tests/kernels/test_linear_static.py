"""int8_linear_static against its twin, bit for bit. Rerun under every instruction set by test_isa.py."""

import itertools

import pytest
import torch

from pyprod.kernels.gemm import pack_weight
from pyprod.kernels.linear_static import int8_linear_static, int8_linear_static_cost, int8_linear_static_reference

SHAPES = [
    (1, 1, 1),
    (1, 33, 7),
    (3, 32, 64),
    (13, 100, 129),
    (40, 65, 300),
    (130, 96, 33),
    (0, 4, 5),
    (3, 0, 5),
    (3, 5, 0),
]
BYTES = [torch.int8, torch.uint8]


def integers(dtype, *shape):
    bounds = torch.iinfo(dtype)
    return torch.randint(bounds.min, bounds.max + 1, shape, dtype=dtype)


def arguments(m, n, k, dtype):
    zero_point = int(integers(dtype, 1))
    w = integers(torch.int8, n, k)
    return (integers(dtype, m, k), 0.02, zero_point), w, (torch.rand(n) / 50, torch.randn(n)), torch.randn(m, n)


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("out_dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_floats_out(dtype, out_dtype, poison):
    for shape in SHAPES:
        x, w, (w_scale, bias), residual = arguments(*shape, dtype)
        residual = residual.to(out_dtype or torch.float32)
        for rest in ((), (bias, "relu", residual)):
            out = int8_linear_static(*x, pack_weight(w), w_scale, *rest, out_dtype=out_dtype)
            reference = int8_linear_static_reference(*x, w, w_scale, *rest, out_dtype=out_dtype)
            assert out.dtype == reference.dtype
            assert torch.equal(out, reference), shape


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("out_dtype", [None, *BYTES])
def test_integers_out(dtype, out_dtype, poison):
    """Scales that leave most results within the range, and scales that saturate most of them."""
    for shape, out_scale in itertools.product(SHAPES, (0.5, 0.001)):
        x, w, (w_scale, bias), residual = arguments(*shape, dtype)
        out = {
            "out_dtype": out_dtype,
            "out_scale": out_scale,
            "out_zero_point": int(integers(out_dtype or torch.int8, 1)),
        }
        for rest in ((), (bias, "relu", residual)):
            q = int8_linear_static(*x, pack_weight(w), w_scale, *rest, **out)
            reference = int8_linear_static_reference(*x, w, w_scale, *rest, **out)
            assert q.dtype == (out_dtype or torch.int8)
            assert torch.equal(q, reference), (shape, out)


def test_ties_round_to_even_and_ends_saturate():
    x = torch.tensor([[1], [3], [5], [-1], [-3], [127], [-128]], dtype=torch.int8)
    layer = (pack_weight(torch.ones(1, 1, dtype=torch.int8)), torch.ones(1))
    q = int8_linear_static(x, 1.0, 0, *layer, out_scale=2.0, out_zero_point=10)
    assert q.flatten().tolist() == [10, 12, 12, 10, 8, 74, -54]
    q = int8_linear_static(x, 1.0, 0, *layer, out_dtype=torch.uint8, out_scale=0.25, out_zero_point=3)
    assert q.flatten().tolist() == [7, 15, 23, 0, 0, 255, 0]


def test_not_a_number_becomes_the_least_integer():
    x, w = torch.ones(2, 3, dtype=torch.int8), torch.ones(40, 3, dtype=torch.int8)
    w_scale = torch.ones(40)
    w_scale[[0, 33]], w_scale[[1, 34]] = torch.nan, torch.inf
    q = int8_linear_static(x, 1.0, 0, pack_weight(w), w_scale, out_scale=1.0)
    assert q[0, [0, 1, 2, 33, 34, 39]].tolist() == [-128, 127, 3, -128, 127, 3]


def test_extremes_fit_int32():
    """The largest K with the widest distance from the zero point, both signs."""
    k = (2**31 - 1) // (255 * 128)
    w = torch.full((33, k), -128, dtype=torch.int8)
    for value, zero in ((255, 0), (0, 255)):
        x = torch.full((2, k), value, dtype=torch.uint8)
        out = int8_linear_static(x, 1.0, zero, pack_weight(w), torch.ones(33))
        assert torch.equal(out, torch.full((2, 33), float((value - zero) * -128 * k)))
    with pytest.raises(RuntimeError, match=f"int8_linear_static: k must be <= {k}, got {k + 1}"):
        more = torch.zeros(1, k + 1, dtype=torch.int8)
        int8_linear_static(more, 1.0, 0, pack_weight(more), torch.ones(1))


def test_leading_dimensions_and_strides():
    (x, scale, zero), w, (w_scale, bias), _ = arguments(60, 40, 50, torch.uint8)
    for view in (x.reshape(3, 4, 5, 50), x[7], x[::2], x.T.contiguous().T, x[:1].expand(9, 50)):
        out = int8_linear_static(view, scale, zero, pack_weight(w), w_scale, bias)
        assert torch.equal(out, int8_linear_static_reference(view, scale, zero, w, w_scale, bias))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_q": torch.zeros(3, 7)}, "x_q must be int8 or uint8, got float32"),
        ({"x_q": torch.zeros(3, 6, dtype=torch.int8)}, r"x_q must be \[..., 7\], got \[3, 6\]"),
        ({"x_scale": 0.0}, "x_scale must be positive, finite and normal, got 0"),
        ({"x_scale": float("nan")}, "x_scale must be positive"),
        ({"x_scale": 1e-40}, "x_scale must be positive"),
        ({"x_zero_point": 128}, r"x_zero_point must be in \[-128, 127\] for int8, got 128"),
        ({"out_scale": float("inf")}, "out_scale must be positive"),
        ({"out_scale": 1.0, "out_dtype": torch.float32}, "out_dtype must be int8 or uint8 with out_scale, got float32"),
        ({"out_dtype": torch.int8}, "out_dtype must be float32, bfloat16 or float16, got int8"),
        (
            {"out_scale": 1.0, "out_dtype": torch.uint8, "out_zero_point": -1},
            r"out_zero_point must be in \[0, 255\] for uint8, got -1",
        ),
        ({"out_scale": 1.0, "residual": torch.ones(3, 5).half()}, "residual must be float32, got float16"),
        ({"w_scale": torch.ones(4)}, r"w_scale must be \[5\], got \[4\]"),
        ({"activation": "tanh"}, "activation must be None, relu, gelu, gelu_tanh or silu, got tanh"),
        ({"bias": torch.ones(5, requires_grad=True)}, "no gradient"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    packed = pack_weight(torch.ones(5, 7, dtype=torch.int8))
    x_q = torch.zeros(3, 7, dtype=torch.int8)
    good = {"x_q": x_q, "x_scale": 1.0, "x_zero_point": 0, "packed": packed, "w_scale": torch.ones(5)}
    int8_linear_static(**good)
    with pytest.raises(RuntimeError, match=f"int8_linear_static.*{message}"):
        int8_linear_static(**good | change)


def test_cost():
    cost = int8_linear_static_cost(2, 3, 5, out_itemsize=1)
    assert (cost.ops, cost.bytes) == (60, 2 * 5 + 15 + 24 + 6)
