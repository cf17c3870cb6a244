"""The fused norms against their twins, bit for bit, and against torch's own. Rerun under every ISA by test_isa.py."""

import pytest
import torch
from torch.nn import functional

from pyprod.kernels import norm
from pyprod.kernels.quantize import quantize_per_token

OPS = torch.ops.pyprod
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-5
TINY = torch.finfo(torch.float32).tiny
# Around the 64 partial sums and the block of 256.
SHAPES = [(3, 1), (5, 63), (7, 64), (9, 65), (2, 255), (3, 257), (2, 3, 100), (40,), (0, 5), (3, 0), (5, 2100)]


def tensors(shape, dtype=torch.float32):
    x, residual = (torch.randn(shape).to(dtype) for _ in range(2))
    return x * 3, residual, torch.randn(shape[-1]), torch.randn(shape[-1])


def equal(got, want):
    """The same dtypes and bits, NaN included."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a.float().nan_to_num(-7), b.float().nan_to_num(-7))


def check(x, residual, weight, bias, eps=EPS):
    """All six ops on these arguments, those that take a multiplier with one too."""
    multiplier = torch.rand(x.shape[-1]) + 0.1
    rms = norm.rms_norm_quantize_reference(x + residual, weight, eps)
    layer = norm.layer_norm_quantize_reference(x + residual, weight, bias, eps)
    rms_float, total = norm.add_rms_norm_reference(x, residual, weight, eps)
    layer_float, _ = norm.add_layer_norm_reference(x, residual, weight, bias, eps)
    affine = (weight, bias, eps)
    alone = norm.layer_norm_quantize_reference(x, *affine, multiplier)
    multiplied = norm.layer_norm_quantize_reference(x + residual, *affine, multiplier)
    equal(norm.rms_norm_quantize(x, weight, eps), norm.rms_norm_quantize_reference(x, weight, eps))
    equal(norm.layer_norm_quantize(x, weight, bias, eps), norm.layer_norm_quantize_reference(x, weight, bias, eps))
    equal(norm.add_rms_norm_quantize(x, residual, weight, eps), (*rms, total))
    equal(norm.add_rms_norm_quantize(x, residual, weight, eps, "normalized"), (*rms, rms_float))
    equal(norm.add_layer_norm_quantize(x, residual, weight, bias, eps), (*layer, total))
    equal(norm.add_layer_norm_quantize(x, residual, weight, bias, eps, "normalized"), (*layer, layer_float))
    equal(norm.layer_norm_quantize(x, *affine, multiplier), alone)
    equal(norm.add_layer_norm_quantize(x, residual, *affine, "sum", multiplier), (*multiplied, total))
    equal(norm.add_layer_norm_quantize(x, residual, *affine, "normalized", multiplier), (*multiplied, layer_float))
    equal(norm.add_rms_norm(x, residual, weight, eps), (rms_float, total))
    equal(norm.add_layer_norm(x, residual, weight, bias, eps), (layer_float, total))


@pytest.mark.parametrize("dtype", FLOATS)
def test_same_bits(dtype, poison):
    for shape in SHAPES:
        x, residual, weight, bias = tensors(shape, dtype)
        check(x, residual, weight, bias)
    check(*tensors((6, 70), dtype)[:3], None)
    check(*tensors((6, 70), dtype)[:2], None, None)
    check(*tensors((6, 70), dtype), eps=0.0)


def test_it_is_torchs_norm_and_our_quantization():
    """Against torch in float64.

    The normalized rows: sums of K = 700 squares in 64 chains of 11 and 6 folds are off by at most 17 roundings, halved
    by the root; with mean, product, weight and bias less than 32 * 2^-24 of the largest value that was added.
    q differs from that of the normalized row where a value sits on the edge between two integers: by one, and rarely.
    """
    x, residual, weight, bias = tensors((50, 700))
    h = (x + residual).double()
    for got, want, op in (
        (
            norm.add_rms_norm(x, residual, weight, EPS)[0],
            functional.rms_norm(h, (700,), weight.double(), EPS),
            norm.rms_norm_quantize(x + residual, weight, EPS),
        ),
        (
            norm.add_layer_norm(x, residual, weight, bias, EPS)[0],
            functional.layer_norm(h, (700,), weight.double(), bias.double(), EPS),
            norm.layer_norm_quantize(x + residual, weight, bias, EPS),
        ),
    ):
        bound = 32 * 2**-24 * (want.abs().amax(-1, keepdim=True) + bias.abs().max())
        assert ((got - want).abs() <= bound).all()
        q, scale = quantize_per_token(got)
        assert ((op[1] - scale).abs() <= 2**-21 * scale).all()
        off = (op[0].int() - q.int()).abs()
        assert off.max() <= 1
        assert off.count_nonzero() < 50


def test_rows_that_lie_apart_are_read_where_they_are():
    wide = torch.randn(6, 4, 300)
    residual = torch.randn(4, 6, 100).transpose(0, 1)  # no even rows: copied
    for x in (wide[..., 30:130], wide[:, :, ::3], wide[:1, :, :100].expand(6, 4, 100)):
        check(x, residual, torch.randn(100), torch.randn(100))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_has_no_scale_and_harms_no_other(bad):
    x, residual, weight, bias = tensors((5, 300))
    clean = norm.layer_norm_quantize(x, weight, bias, EPS)
    x[2, 299] = bad
    check(x, residual, weight, bias)
    for q, scale in (norm.rms_norm_quantize(x, weight, EPS), norm.layer_norm_quantize(x, weight, bias, EPS)):
        assert scale.isnan().tolist() == [False, False, True, False, False]
        assert not q[2].any()
    kept = [0, 1, 3, 4]
    equal([t[kept] for t in norm.layer_norm_quantize(x, weight, bias, EPS)], [t[kept] for t in clean])


def test_zero_rows_have_a_scale():
    zero = torch.zeros(2, 70)
    check(zero, zero, torch.randn(70), torch.randn(70))
    q, scale = norm.rms_norm_quantize(zero, None, 4.0)
    assert not q.any()
    assert scale.tolist() == [TINY, TINY]  # TINY / sqrt(4) would be subnormal


def test_threads_and_other_rows_change_nothing():
    x, residual, weight, bias = tensors((300, 800))
    want = norm.add_layer_norm_quantize(x, residual, weight, bias, EPS)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            equal(norm.add_layer_norm_quantize(x, residual, weight, bias, EPS), want)
    finally:
        torch.set_num_threads(before)
    equal(
        norm.add_layer_norm_quantize(x[7:8], residual[7:8], weight, bias, EPS),
        [t[7:8] for t in want],
    )


@pytest.mark.parametrize("dtype", FLOATS[:2])
def test_results_written_past_the_cache_are_the_same(dtype, poison):
    """6.7 MB are streamed, the parts are not; rows of an odd number of elements are not aligned."""
    x, residual, weight, bias = tensors((800 if dtype == torch.float32 else 1600, 2099), dtype)
    whole = norm.add_layer_norm_quantize(x, residual, weight, bias, EPS)
    both = norm.add_rms_norm(x, residual, weight, EPS)
    for rows in torch.arange(len(x)).split(300):
        part = x[rows], residual[rows]
        equal([t[rows] for t in whole], norm.add_layer_norm_quantize(*part, weight, bias, EPS))
        equal([t[rows] for t in both], norm.add_rms_norm(*part, weight, EPS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 7, dtype=torch.float64)}, "x must be float32, bfloat16 or float16, got float64"),
        ({"x": torch.tensor(1.0)}, "got a scalar"),
        ({"residual": torch.zeros(3, 8)}, r"residual must be shaped like x, \[3, 7\], got \[3, 8\]"),
        ({"residual": torch.zeros(3, 7).half()}, "residual must be float32, got float16"),
        ({"weight": torch.ones(8)}, r"weight must be \[7\], got \[8\]"),
        ({"weight": torch.ones(7).bfloat16()}, "weight must be float32, got bfloat16"),
        ({"weight": None}, "bias needs a weight"),
        ({"bias": torch.ones(14)[::2]}, "bias must be contiguous"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"multiplier": torch.ones(8)}, r"multiplier must be \[7\], got \[8\]"),
        ({"multiplier": torch.ones(7).half()}, "multiplier must be float32, got float16"),
        ({"keep": "both"}, "keep must be sum or normalized, got both"),
        ({"x": torch.zeros(3, 7, requires_grad=True)}, "no gradient"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    x, residual, weight, bias = tensors((3, 7))
    good = {"x": x, "residual": residual, "weight": weight, "bias": bias, "eps": EPS, "keep": "sum"}
    norm.add_layer_norm_quantize(**good)
    with pytest.raises(RuntimeError, match=f"add_layer_norm_quantize.*{message}"):
        norm.add_layer_norm_quantize(**good | change)


def test_opcheck_and_compile():
    x, residual, weight, bias = tensors((4, 3, 20), torch.bfloat16)
    for op, arguments in (
        (OPS.rms_norm_quantize, (x, weight, EPS)),
        (OPS.layer_norm_quantize, (x, weight, bias, EPS)),
        (OPS.layer_norm_quantize, (x, None, None, EPS, weight)),
        (OPS.add_rms_norm_quantize, (x, residual, weight, EPS, "normalized")),
        (OPS.add_layer_norm_quantize, (x, residual, None, None, EPS)),
        (OPS.add_layer_norm_quantize, (x, residual, weight, bias, EPS, "normalized", weight)),
        (OPS.add_rms_norm, (x, residual, weight, EPS)),
        (OPS.add_layer_norm, (x, residual, weight, bias, EPS)),
    ):
        torch.library.opcheck(op.default, arguments)

    def model(x, residual):
        q, scale, h = norm.add_rms_norm_quantize(x, residual, weight, EPS)
        return q * scale[..., None] + norm.add_layer_norm(h, x, weight, bias, EPS)[0]

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (4, 9):
        arguments = tensors((rows, 20))[:2]
        assert torch.equal(compiled(*arguments), model(*arguments))


def test_cost():
    assert norm.norm_quantize_cost(2, 3).bytes == 2 * 3 * 5 + 12 + 8
    assert norm.add_norm_quantize_cost(2, 3, itemsize=2).bytes == 2 * 3 * 7 + 12 + 8
    assert norm.add_norm_cost(2, 3).bytes == 2 * 3 * 16 + 12
