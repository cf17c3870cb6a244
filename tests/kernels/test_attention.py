"""int8_attention against its slow twin and against float attention, on shapes that break things."""

import math

import pytest
import torch
from torch.nn import functional

from pyprod.kernels.attention import int8_attention, int8_attention_packed, int8_attention_reference

# (batch, heads, kv heads, queries, keys, depth): tiles are 12 to 32 rows, 32 keys, 4 or 64 deep.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 1, 1, 37, 64),
    (1, 2, 2, 33, 31, 32),
    (1, 12, 12, 128, 128, 32),
    (2, 9, 3, 17, 65, 64),
    (1, 2, 1, 13, 257, 33),
    (1, 1, 1, 7, 32, 127),
]


def tolerance(v):
    """Of the kernel against its twin, which has the same integers but for ties.

    Weights are 2^t to a relative 2.9e-4 + 1/32639 (polynomial, rounding), scores in float32 to a few 1e-6 of at most
    some tens: 3e-4 in all of the largest value; a token whose x / scale is a tie in float32 may round the other way,
    which moves a score by 1/127 of its largest product: another 2e-2 of a weight at most, and only there.
    """
    return 2e-2 * v.abs().max()


def random(shape, dtype=torch.float32):
    b, h, kv, s, t, d = shape
    return (torch.randn(b, n, m, d).to(dtype) for n, m in ((h, s), (kv, t), (kv, t)))


def masks(shape):
    b, h, _, s, t, _ = shape
    padding = torch.rand(b, 1, 1, t) < 0.7
    dead = torch.rand(s, t) < 0.5
    dead[0] = False  # a query that sees nothing
    return {"none": None, "padding": padding, "dead row": dead, "additive": torch.randn(b, h, s, t).clamp(min=-1)}


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_twin(shape, causal):
    q, k, v = random(shape)
    for name, mask in masks(shape).items():
        got = int8_attention(q, k, v, mask, causal)
        want = int8_attention_reference(q, k, v, mask, causal)
        assert got.shape == (shape[0], shape[3], shape[1] * shape[5])
        error = (got - want).abs()
        assert error.max() < tolerance(v), name
        assert error.mean() < 3e-4 * v.abs().max(), name
        if name == "dead row":
            assert (got[:, 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_close_to_float_attention(dtype):
    """Queries, keys and values each off by a uniform 1/254 of their largest, 0.9% of a normal row: 1.6% together."""
    q, k, v = (x * 1.0 for x in random((2, 4, 2, 50, 70, 32), dtype))
    k = k + 5 * torch.randn(1, 1, 1, 32, dtype=dtype)  # a channel bias: taken out with the mean key
    mask = torch.rand(2, 1, 1, 70) < 0.8
    wide = (x.float() for x in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))
    want = functional.scaled_dot_product_attention(*wide, attn_mask=mask).transpose(1, 2).flatten(2)
    got = int8_attention(q, k, v, mask)
    assert got.dtype == dtype
    assert (got.float() - want).norm() < 0.03 * want.norm()


def test_packed_reads_the_projection_in_place():
    b, s, h, kv, d = 2, 19, 6, 2, 20
    qkv = torch.randn(b, s, (h + 2 * kv) * d)
    q, k, v = (x.view(b, s, -1, d).transpose(1, 2) for x in qkv.split([h * d, kv * d, kv * d], -1))
    assert torch.equal(int8_attention_packed(qkv, h, kv, causal=True), int8_attention(q, k, v, causal=True))
    wide = torch.randn(b, s, 2 * qkv.shape[2])[:, :, ::2].copy_(qkv)  # not dense
    assert torch.equal(int8_attention_packed(wide, h, kv), int8_attention(q, k, v))


def test_strides_threads_and_batches_change_no_bit():
    q, k, v = random((3, 4, 4, 40, 50, 32))
    mask = torch.rand(3, 1, 40, 50) < 0.9
    want = int8_attention(q, k, v, mask)
    odd = [torch.empty(*x.shape[:3], 64)[..., ::2].copy_(x) for x in (q, k, v)]
    assert torch.equal(int8_attention(*odd, mask.transpose(2, 3).contiguous().transpose(2, 3)), want)
    assert torch.equal(int8_attention(q[1:2], k[1:2], v[1:2], mask[1:2]), want[1:2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(int8_attention(q, k, v, mask), want)
    torch.set_num_threads(threads)


def test_scale_and_empty():
    q, k, v = random((2, 2, 2, 5, 9, 8))
    assert torch.equal(int8_attention(q, k, v, scale=1 / math.sqrt(8)), int8_attention(q, k, v))
    assert not torch.equal(int8_attention(q, k, v, scale=1.0), int8_attention(q, k, v))
    assert (int8_attention(q, k[:, :, :0], v[:, :, :0]) == 0).all()
    assert int8_attention(q[:, :, :0], k, v).shape == (2, 0, 16)
    assert int8_attention(q[:0], k[:0], v[:0]).shape == (0, 5, 16)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite(bad):
    q, k, v = random((1, 2, 2, 40, 50, 8))
    poisoned = q.clone()
    poisoned[0, 1, 3, 0] = bad
    got = int8_attention(poisoned, k, v).view(1, 40, 2, 8)
    assert got[0, 3, 1].isnan().all()
    assert got.isnan().sum() == 8
    poisoned = k.clone()
    poisoned[0, 1, 3, 0] = bad
    assert int8_attention(q, poisoned, v).view(1, 40, 2, 8).isnan().sum() == 40 * 8
    poisoned = v.clone()
    poisoned[0, 1, 3, 5] = bad
    got = int8_attention(q, k, poisoned).view(1, 40, 2, 8)
    assert got[:, :, 1, 5].isnan().all()
    assert got.isnan().sum() == 40
    mask = torch.zeros(40, 50)
    mask[7, 2] = bad
    rows = int8_attention(q, k, v, mask).isnan().all(-1)
    assert rows[0].nonzero().flatten().tolist() == ([] if bad == -math.inf else [7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 4, 5)}, r"int8_attention: q must be \[B, H, S, D\], got \[2, 4, 5\]"),
        ({"q": torch.zeros(2, 4, 5, 8, dtype=torch.int8)}, "q must be float32, bfloat16 or float16, got int8"),
        ({"k": torch.zeros(2, 2, 6, 8, dtype=torch.half)}, "k must be float32, got float16"),
        ({"k": torch.zeros(2, 2, 6, 9)}, r"k must be \[2, KV, T, 8\], got \[2, 2, 6, 9\]"),
        ({"k": torch.zeros(2, 3, 6, 8)}, "heads of q must be a multiple of those of k, got 4 and 3"),
        ({"v": torch.zeros(2, 2, 7, 8)}, r"v must be shaped like k, \[2, 2, 6, 8\], got \[2, 2, 7, 8\]"),
        ({"mask": torch.zeros(5, 7)}, r"mask must broadcast to \[2, 4, 5, 6\], got \[5, 7\]"),
        ({"mask": torch.zeros(5, 6, dtype=torch.int64)}, "mask, where it is not bool, must be float32.*got int64"),
    ],
)
def test_refusals(change, message):
    good = {"q": torch.zeros(2, 4, 5, 8), "k": torch.zeros(2, 2, 6, 8), "v": torch.zeros(2, 2, 6, 8)}
    with pytest.raises(RuntimeError, match=message):
        int8_attention(**(good | change))


@pytest.mark.parametrize(
    ("shape", "heads", "message"),
    [
        ((2, 24), (1, 1), r"qkv must be \[B, S, \(heads \+ 2 kv_heads\) D\], got \[2, 24\]"),
        ((2, 3, 24), (3, 2), "heads must be a multiple of kv_heads, both positive, got 3 and 2"),
        ((2, 3, 25), (2, 1), "a multiple of heads \\+ 2 kv_heads = 4, got 25"),
    ],
)
def test_packed_refusals(shape, heads, message):
    with pytest.raises(RuntimeError, match=message):
        int8_attention_packed(torch.zeros(shape), *heads)


def test_gradients_are_refused():
    q, k, v = random((1, 1, 1, 2, 2, 4))
    with pytest.raises(RuntimeError, match="int8_attention has no gradient"):
        int8_attention(q.requires_grad_(), k, v)


def test_tracing():
    q, k, v = random((1, 4, 2, 5, 6, 8))
    mask = torch.rand(5, 6) < 0.9
    torch.library.opcheck(torch.ops.pyprod.int8_attention.default, (q, k, v, mask, True, 0.5))
    qkv = torch.randn(2, 5, 8 * 8)
    torch.library.opcheck(torch.ops.pyprod.int8_attention_packed.default, (qkv, 4, 2))
    compiled = torch.compile(int8_attention, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, mask), int8_attention(q, k, v, mask))
