"""int8_linear_prequantized against its twin and int8_linear. Rerun under every instruction set by test_isa.py."""

import pytest
import torch

from pyprod.kernels.gemm import pack_weight
from pyprod.kernels.linear import int8_linear
from pyprod.kernels.linear_prequantized import (
    int8_linear_prequantized,
    int8_linear_prequantized_cost,
    int8_linear_prequantized_reference,
)
from pyprod.kernels.quantize import quantize_per_token

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


def arguments(m, n, k, out_dtype=torch.float32):
    q, w = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((m, k), (n, k)))
    return q, torch.rand(m), w, torch.rand(n) / 100, torch.randn(n), torch.randn(m, n).to(out_dtype)


@pytest.mark.parametrize("out_dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_same_bits(out_dtype, poison):
    for shape in SHAPES:
        q, scale, w, w_scale, bias, residual = arguments(*shape, out_dtype or torch.float32)
        packed = pack_weight(w)
        for options in ({}, {"bias": bias, "activation": "relu", "residual": residual}):
            out = int8_linear_prequantized(q, scale, packed, w_scale, out_dtype=out_dtype, **options)
            reference = int8_linear_prequantized_reference(q, scale, w, w_scale, out_dtype=out_dtype, **options)
            assert out.dtype == reference.dtype
            assert torch.equal(out, reference), (shape, options.keys())


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu"])
def test_is_int8_linear_from_its_second_step_on(activation):
    _, _, w, w_scale, bias, residual = arguments(50, 70, 90)
    x, packed = torch.randn(5, 10, 90), pack_weight(w)
    x[2, 3, 4] = torch.nan
    out = int8_linear_prequantized(*quantize_per_token(x), packed, w_scale, bias, activation, residual.view(5, 10, 70))
    whole = int8_linear(x, packed, w_scale, bias, activation, residual.view(5, 10, 70))
    assert torch.equal(out.nan_to_num(-7), whole.nan_to_num(-7))
    assert out[2, 3].isnan().all()


def test_strides():
    q, scale, w, w_scale, bias, _ = arguments(60, 40, 50)
    packed = pack_weight(w)
    for view, row in ((q[::2], scale[::2].contiguous()), (q.T.contiguous().T, scale), (q[:1].expand(9, 50), scale[:9])):
        reference = int8_linear_prequantized_reference(view, row, w, w_scale, bias)
        assert torch.equal(int8_linear_prequantized(view, row, packed, w_scale, bias), reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(3, 7)}, "q must be int8, got float32"),
        ({"q": torch.zeros(3, 6, dtype=torch.int8)}, r"q must be \[..., 7\], got \[3, 6\]"),
        ({"scale": torch.ones(3).double()}, "scale must be float32, got float64"),
        ({"scale": torch.ones(3, 1)}, r"scale must have the shape of q without .* got \[3, 1\]"),
        ({"scale": torch.ones(4)}, r"scale must have the shape of q without .* got \[4\]"),
        ({"scale": torch.ones(6)[::2]}, "scale must be contiguous"),
        ({"w_scale": torch.ones(4)}, r"w_scale must be \[5\], got \[4\]"),
        ({"residual": torch.ones(3, 5).half()}, "residual must be float32, got float16"),
        ({"out_dtype": torch.int8}, "out_dtype must be float32, bfloat16 or float16, got int8"),
        ({"scale": torch.ones(3, requires_grad=True)}, "no gradient"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    packed = pack_weight(torch.ones(5, 7, dtype=torch.int8))
    q = torch.zeros(3, 7, dtype=torch.int8)
    good = {"q": q, "scale": torch.ones(3), "packed": packed, "w_scale": torch.ones(5)}
    int8_linear_prequantized(**good)
    with pytest.raises(RuntimeError, match=f"int8_linear_prequantized.*{message}"):
        int8_linear_prequantized(**good | change)


def test_cost():
    cost = int8_linear_prequantized_cost(2, 3, 5, out_itemsize=2)
    assert (cost.ops, cost.bytes) == (60, 2 * 5 + 8 + 15 + 24 + 12)
