"""quantize_per_token against its twin, bit for bit. Rerun under every instruction set by test_isa.py."""

import pytest
import torch

from pyprod.kernels.quantize import quantize_per_token, quantize_per_token_cost, quantize_per_token_reference

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def check(x):
    q, scale = quantize_per_token(x)
    q_reference, scale_reference = quantize_per_token_reference(x)
    assert q.dtype == torch.int8
    assert scale.dtype == torch.float32
    assert torch.equal(q, q_reference)
    assert torch.equal(scale.nan_to_num(-1), scale_reference.nan_to_num(-1))
    return q, scale


@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits(dtype, poison):
    for shape in [(1, 1), (3, 4), (5, 63), (7, 64), (9, 65), (33, 300), (2, 3, 17), (40,), (0, 5), (5, 0), (2, 0, 3)]:
        check(torch.randn(shape).to(dtype))
        check((torch.randn(shape) * torch.logspace(-20, 20, max(1, shape[-1]))[: shape[-1]]).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number(dtype):
    """Each on its own, so that its exact value is in the scale."""
    check(torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)[:, None])


def test_ties_round_to_even():
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    q, scale = check(x)
    assert scale.item() == 1
    assert q.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_has_no_scale(bad):
    x = torch.randn(5, 70)
    x[2, 69] = bad
    q, scale = check(x)
    assert scale.isnan().tolist() == [False, False, True, False, False]
    assert not q[2].any()


def test_zero_and_tiny_rows():
    tiny = torch.finfo(torch.float32).tiny
    q, scale = check(torch.tensor([[0.0, -0.0], [tiny, -tiny / 2], [1e-45, 0], [3e38, -3e38]]))
    assert scale[0] == tiny
    assert q[0].tolist() == [0, 0]
    assert q[3].tolist() == [127, -127]


def test_any_strides():
    x = torch.randn(40, 90)
    for view in (x[:, 7:50], x.T, x[::2, ::3], x[:1].expand(6, 90), x.reshape(4, 10, 90).transpose(0, 1)):
        check(view)


def test_wrong_arguments_are_named():
    with pytest.raises(RuntimeError, match="quantize_per_token: x must be float32, bfloat16 or float16, got float64"):
        quantize_per_token(torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="got a scalar"):
        quantize_per_token(torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="no gradient"):
        quantize_per_token(torch.zeros(2, 2, requires_grad=True))


def test_cost():
    assert quantize_per_token_cost(2, 3).bytes == 2 * 3 * 5 + 8
