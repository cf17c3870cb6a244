"""int8_linear against its twin. Rerun under every instruction set by test_isa.py."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pyprod.kernels.gemm import pack_weight
from pyprod.kernels.linear import int8_linear, int8_linear_cost, int8_linear_reference

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1), (1, 33, 7), (3, 32, 64), (7, 100, 129), (8, 65, 300), (40, 31, 65), (130, 96, 33)]
EMPTY = [(0, 4, 5), (3, 0, 5), (3, 5, 0)]


def arguments(m, n, k, dtype=torch.float32, out_dtype=None):
    x, residual = torch.randn(m, k).to(dtype), torch.randn(m, n).to(out_dtype or dtype)
    w = torch.randint(-128, 128, (n, k), dtype=torch.int8)
    return x, w, torch.rand(n) / 100, torch.randn(n), residual


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("out_dtype", [None, *FLOATS])
def test_same_bits_without_a_curved_activation(dtype, out_dtype, poison):
    """The product is exact and both sides round the same float32 steps in the same order: nothing may differ."""
    for shape in SHAPES + EMPTY:
        x, w, scale, bias, residual = arguments(*shape, dtype, out_dtype)
        packed = pack_weight(w)
        for options in (
            {},
            {"bias": bias},
            {"bias": bias, "activation": "relu", "residual": residual},
            {"residual": residual},
            {"bias": bias, "multiplier": torch.rand(shape[2]) + 0.1},
            {"asymmetric": True},
            {"bias": bias, "activation": "relu", "residual": residual, "asymmetric": True},
            {"multiplier": torch.rand(shape[2]) + 0.1, "asymmetric": True},
        ):
            out = int8_linear(x, packed, scale, out_dtype=out_dtype, **options)
            reference = int8_linear_reference(x, w, scale, out_dtype=out_dtype, **options)
            assert out.dtype == (out_dtype or dtype)
            assert torch.equal(out, reference), (shape, options.keys())


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_activation_within_8_ulp_of_its_argument(activation):
    """|error| <= 2^-21 |y|, y the argument.

    gelu: the rational erf is within 4.5e-7 (csrc/common/activation.h), half of it times |y|, plus 4 roundings of
    2^-24. silu: exp within 2 ulp, sum and quotient: 4 roundings of a value <= |y|. gelu_tanh: the argument z of the
    sigmoid carries 4 roundings, worth |z| sigmoid(z) 4 2^-24 <= 0.28 * 2^-22 in the result, plus silu's.
    """
    steps = torch.arange(-20_000, 20_001) / 1000
    w = torch.ones(1, 1, dtype=torch.int8)
    x = torch.cat([steps, torch.randn(1000) * 1e4, torch.tensor([0.0, 1e-30, -1e-30, 3e38, -3e38])])[:, None]
    args = (x, pack_weight(w), torch.ones(1))
    y = int8_linear(*args)
    out = int8_linear(*args, activation=activation)
    error = (out.double() - int8_linear_reference(x, w, torch.ones(1), activation=activation).double()).abs()
    assert (error <= 2**-21 * y.double().abs()).all()


def test_leading_dimensions_and_strides():
    x, w, scale, bias, _ = arguments(60, 40, 50)
    packed = pack_weight(w)
    for view in (x.reshape(3, 4, 5, 50), x[7], x[::2], x.reshape(6, 10, 50).transpose(0, 1), x[:1].expand(9, 50)):
        out = int8_linear(view, packed, scale, bias, "relu")
        assert out.shape == (*view.shape[:-1], 40)
        assert torch.equal(out, int8_linear_reference(view, w, scale, bias, "relu"))
    residual = torch.randn(40, 60).T
    assert torch.equal(
        int8_linear(x, packed, scale, residual=residual), int8_linear_reference(x, w, scale, residual=residual)
    )


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_row_that_is_not_finite_gives_nan_and_harms_no_other(asymmetric):
    x, w, scale, bias, _ = arguments(20, 40, 50)
    clean = int8_linear(x, pack_weight(w), scale, bias, "gelu", asymmetric=asymmetric)
    x[3, 5], x[11, 49] = torch.nan, torch.inf
    out = int8_linear(x, pack_weight(w), scale, bias, "gelu", asymmetric=asymmetric)
    assert out[[3, 11]].isnan().all()
    kept = [i for i in range(20) if i not in (3, 11)]
    assert torch.equal(out[kept], clean[kept])


@pytest.mark.parametrize("activation", [None, "gelu", "silu"])
def test_a_row_is_the_same_whatever_stands_beside_it(activation):
    x, w, scale, bias, _ = arguments(300, 100, 90)
    packed = pack_weight(w)
    whole = int8_linear(x, packed, scale, bias, activation)
    for m in (*range(1, 40), 64, 65, 129):
        assert torch.equal(int8_linear(x[-m:], packed, scale, bias, activation), whole[-m:]), m


def test_threads_change_nothing():
    """Few rows (threads share the panels) and many (they share the rows); also several callers at once."""
    before = torch.get_num_threads()
    try:
        # One row, few rows, rows to share, weights beyond half of L2, rows beyond half of L2, both.
        for shape in [
            (1, 2000, 700),
            (5, 4100, 300),
            (300, 500, 200),
            (70, 1400, 1100),
            (900, 40, 1300),
            (600, 900, 2100),
        ]:
            x, w, scale, bias, _ = arguments(*shape)
            packed = pack_weight(w)
            reference = int8_linear_reference(x, w, scale, bias)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                assert torch.equal(int8_linear(x, packed, scale, bias), reference), (shape, threads)
            with ThreadPoolExecutor(4) as pool:
                calls = [pool.submit(int8_linear, x, packed, scale, bias) for _ in range(8)]
                assert all(torch.equal(call.result(), reference) for call in calls)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_zero_point_keeps_to_int8_wherever_the_row_lies(dtype):
    """Rows on either side of 0, across it, constant, and as large and as small as floats are; an offset far from 0."""
    most, least = 0.99 * torch.finfo(dtype).max, torch.finfo(dtype).tiny
    edges = torch.tensor([[most, -most], [most, most], [-most, -most], [least, -least], [0, 0], [127.5, -126.5]])
    rows = torch.randn(400, 1) * torch.rand(400, 90) + 20 * torch.randn(400, 1) * (torch.rand(400, 1) < 0.5)
    x = torch.cat([edges.repeat(1, 45), rows]).to(dtype)
    w, scale = torch.eye(90, dtype=torch.int8), torch.ones(90)
    out = int8_linear(x, pack_weight(w), scale, out_dtype=torch.float32, asymmetric=True)
    assert torch.equal(out, int8_linear_reference(x, w, scale, out_dtype=torch.float32, asymmetric=True))
    high, low = (side.float().amax(1).clamp(min=0) for side in (x, -x))
    step = (high / 254 + low / 254).clamp(min=torch.finfo(torch.float32).tiny)
    assert ((out.double() - x.double()).abs() <= 0.50002 * step[:, None].double()).all()


def test_asymmetric_sums_fit_int32():
    longest = (2**31 - 1) // (255 * 128)
    x, w = torch.full((1, longest + 1), -1.0), torch.full((3, longest + 1), -128, dtype=torch.int8)
    got = int8_linear(x[:, 1:], pack_weight(w[:, 1:]), torch.ones(3), asymmetric=True)
    assert torch.equal(got, int8_linear_reference(x[:, 1:], w[:, 1:], torch.ones(3), asymmetric=True))
    with pytest.raises(RuntimeError, match=f"int8_linear: asymmetric takes k <= {longest}, got {longest + 1}"):
        int8_linear(x, pack_weight(w), torch.ones(3), asymmetric=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 7, dtype=torch.float64)}, "x must be float32, bfloat16 or float16, got float64"),
        ({"x": torch.zeros(3, 6)}, r"x must be \[..., 7\], got \[3, 6\]"),
        ({"w_scale": torch.ones(4)}, r"w_scale must be \[5\], got \[4\]"),
        ({"w_scale": torch.ones(5, dtype=torch.bfloat16)}, "w_scale must be float32, got bfloat16"),
        ({"w_scale": torch.ones(10)[::2]}, "w_scale must be contiguous"),
        ({"bias": torch.ones(1, 5)}, r"bias must be \[5\], got \[1, 5\]"),
        ({"activation": "tanh"}, "activation must be None, relu, gelu, gelu_tanh or silu, got tanh"),
        ({"residual": torch.ones(3, 4)}, r"residual must be shaped like the output, got \[3, 4\]"),
        ({"residual": torch.ones(3, 5, dtype=torch.float16)}, "residual must be float32, got float16"),
        ({"multiplier": torch.ones(5)}, r"multiplier must be \[7\], got \[5\]"),
        ({"multiplier": torch.ones(7).half()}, "multiplier must be float32, got float16"),
        ({"out_dtype": torch.int8}, "out_dtype must be float32, bfloat16 or float16, got int8"),
        ({"x": torch.zeros(3, 7, requires_grad=True)}, "no gradient"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    packed = pack_weight(torch.ones(5, 7, dtype=torch.int8))
    good = {"x": torch.zeros(3, 7), "packed": packed, "w_scale": torch.ones(5)}
    int8_linear(**good)
    with pytest.raises(RuntimeError, match=f"int8_linear.*{message}"):
        int8_linear(**good | change)


def test_cost():
    cost = int8_linear_cost(2, 3, 5, out_itemsize=2)
    assert (cost.ops, cost.bytes) == (60, 2 * 5 * 4 + 15 + 24 + 12)
