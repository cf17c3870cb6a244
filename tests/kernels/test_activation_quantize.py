"""silu_mul_quantize and gelu_quantize against their twins. Rerun under every instruction set by test_isa.py."""

import pytest
import torch
from torch.nn import functional

from pyprod.kernels import activation_quantize as act

OPS = torch.ops.pyprod
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(3, 1), (5, 63), (7, 64), (2, 255), (3, 257), (2, 3, 100), (40,), (0, 5), (3, 0), (9, 2100)]


def check(got, want, exact, largest):
    """The quantized row is within half a step of the exact one, up to the error of the activation.

    The activation is off by at most 2^-21 of its argument (test_linear.py), times |up|: `largest` bounds the product.
    Scaling to 127 steps rounds twice, by 2^-24 each.
    """
    (q, scale), (q_reference, scale_reference) = got, want
    assert (q.dtype, scale.dtype) == (torch.int8, torch.float32)
    error = 2**-21 * largest
    assert ((scale - scale_reference).abs() * 127 <= 2**-22 * 127 * scale_reference + error).all()
    steps = (error / scale)[..., None]  # below 1 but where the row is as small as the error: GELU near -5, alone
    assert ((q - exact / scale[..., None]).abs() <= 0.5 + 2**-23 * 127 + steps).all()
    assert ((q.int() - q_reference.int()).abs() <= 1 + steps.floor()).all()


def check_silu_mul(gate, up):
    exact = functional.silu(gate.double()) * up.double()
    check(act.silu_mul_quantize(gate, up), act.silu_mul_quantize_reference(gate, up), exact, bound(gate, up))


def check_gelu(x, approximate="none"):
    exact = functional.gelu(x.double(), approximate=approximate)
    got, want = act.gelu_quantize(x, approximate), act.gelu_quantize_reference(x, approximate)
    check(got, want, exact, bound(x))


def bound(*factors):
    product = torch.stack([f.double().abs() for f in factors]).prod(0)
    return product.amax(-1) if product.shape[-1] else product.sum(-1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_close_to_the_reference(dtype, poison):
    for shape in SHAPES:
        gate, up = ((torch.randn(shape) * 3).to(dtype) for _ in range(2))
        check_silu_mul(gate, up)
        for approximate in ("none", "tanh"):
            check_gelu(gate, approximate)


def test_far_from_zero():
    """Where the exponential is clamped and erf is one."""
    x = torch.tensor(
        [[-1e6, -200, -89, -87, -20, -4, 0, 4, 20, 87, 89, 200], [-1e4, -500, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8]]
    )
    check_silu_mul(x, x)
    check_gelu(x)
    check_gelu(x, "tanh")


def test_halves_of_one_tensor_give_the_same_bits():
    both = torch.randn(4, 5, 600)
    gate, up = both.chunk(2, -1)
    for a, b in ((gate, up), (both[:, ::2, :300], both[:, :5:2, 300:]), (gate.transpose(0, 1), up.transpose(0, 1))):
        for got, want in zip(
            act.silu_mul_quantize(a, b), act.silu_mul_quantize(a.contiguous(), b.contiguous()), strict=True
        ):
            assert torch.equal(got, want)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_has_no_scale(bad):
    x, up = torch.randn(5, 70), torch.randn(5, 70)
    x[2, 69] = bad
    for q, scale in (act.silu_mul_quantize(x, up), act.silu_mul_quantize(up, x), act.gelu_quantize(x)):
        assert scale.isnan().tolist() == [False, False, True, False, False]
        assert not q[2].any()


def test_threads_change_nothing():
    gate, up = torch.randn(300, 500), torch.randn(300, 500)
    want = act.silu_mul_quantize(gate, up)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, act.silu_mul_quantize(gate, up), want))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b[3:4]) for a, b in zip(act.silu_mul_quantize(gate[3:4], up[3:4]), want, strict=True))


def test_wrong_arguments_are_named():
    x = torch.zeros(3, 7)
    for call, message in (
        (lambda: act.silu_mul_quantize(x.double(), x), "silu_mul_quantize: gate must be float32.* got float64"),
        (lambda: act.silu_mul_quantize(x, x.half()), "silu_mul_quantize: up must be float32, got float16"),
        (lambda: act.silu_mul_quantize(x, x[:2]), r"up must be shaped like gate, \[3, 7\], got \[2, 7\]"),
        (lambda: act.silu_mul_quantize(torch.tensor(1.0), x), "gate must be .* got a scalar"),
        (lambda: act.gelu_quantize(x.int()), "gelu_quantize: x must be float32.* got int32"),
        (lambda: act.gelu_quantize(x, "erf"), "approximate must be none or tanh, got erf"),
        (lambda: act.gelu_quantize(x.clone().requires_grad_()), "no gradient"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()


def test_opcheck_and_compile():
    both = torch.randn(4, 3, 20).half()
    torch.library.opcheck(OPS.silu_mul_quantize.default, tuple(both.chunk(2, -1)))
    torch.library.opcheck(OPS.gelu_quantize.default, (both,), {"approximate": "tanh"})

    def model(both):
        q, scale = act.silu_mul_quantize(*both.chunk(2, -1))
        return act.gelu_quantize(q * scale[..., None])

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (4, 9):
        x = torch.randn(rows, 30)
        assert all(map(torch.equal, compiled(x), model(x)))


def test_cost():
    assert act.silu_mul_quantize_cost(2, 3).bytes == 2 * 3 * 9 + 8
    assert act.gelu_quantize_cost(2, 3, itemsize=2).bytes == 2 * 3 * 3 + 8
