"""int8_gemm against its twin. Rerun under every instruction set by test_isa.py."""

import copy
import io
import pickle
import random

import pytest
import torch

from pyprod.kernels.gemm import HUGE, MAX_K, PackedWeight, int8_gemm, int8_gemm_cost, int8_gemm_reference, pack_weight

# Around the register tiles (4 to 32 rows), the panel (32), a word (4), a cache line (64) and an L2 block.
EDGES = [
    (1, 1, 1), (1, 32, 4), (2, 33, 3), (3, 31, 5), (4, 64, 64), (5, 65, 63), (7, 96, 65), (8, 32, 128), (9, 95, 127),
    (15, 1, 256), (16, 129, 255), (17, 128, 257), (33, 160, 1024), (1, 300, 300), (300, 1, 1),
    (65, 1000, 96), (40, 96, 4097),
]  # fmt: skip
EMPTY = [(0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0), (1, 40, 0)]


def int8(*shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8)


def random_shapes(count):
    seed = torch.initial_seed()
    generator = random.Random(seed)
    return [tuple(generator.randint(0, 300) for _ in range(3)) for _ in range(count)]


def test_exact_on_every_shape(poison):
    for m, n, k in EDGES + EMPTY + random_shapes(40):
        a, w = int8(m, k), int8(n, k)
        out = int8_gemm(a, pack_weight(w))
        assert out.dtype == torch.int32
        assert torch.equal(out, int8_gemm_reference(a, w)), (m, n, k)


@pytest.mark.parametrize("a", [-128, 127])
@pytest.mark.parametrize("w", [-128, 127])
def test_extremes_do_not_saturate(a, w):
    """vpmaddubsw would saturate here at K = 2; the largest K fills int32 to the last bit but one."""
    for k in (2, 5, 4096, MAX_K):
        out = int8_gemm(torch.full((3, k), a, dtype=torch.int8), pack_weight(torch.full((33, k), w, dtype=torch.int8)))
        assert torch.equal(out, torch.full((3, 33), a * w * k, dtype=torch.int32)), k


@pytest.mark.parametrize(("m", "n", "k"), [(100, 64, 14336), (129, 300, 8257), (545, 33, 16001), (513, 70, 8192)])
def test_exact_where_k_is_cut(m, n, k, poison):
    """More rows of so long a k than 2 MB of L2 hold: sums are kept between parts of k. A last part that is not whole,
    several groups of panels, several chunks of rows. The last rows alone, on one thread, give the same bits."""
    a, w = int8(m, k), int8(n, k)
    packed = pack_weight(w)
    out = int8_gemm(a, packed)
    assert torch.equal(out, (a.double() @ w.double().T).int())  # exact: below 2^53
    torch.set_num_threads(1)
    assert torch.equal(out, int8_gemm(a, packed))
    assert torch.equal(out[-3:], int8_gemm(a[-3:], packed))


def test_a_result_of_more_than_32_mb():
    """Asked to be in huge pages before it is written."""
    a, w = int8(4099, 3), int8(2112, 3)
    assert torch.equal(int8_gemm(a, pack_weight(w)), int8_gemm_reference(a, w))


def test_any_strides():
    w = int8(70, 50)
    packed = pack_weight(w)
    wide, tall, row = int8(20, 200), int8(50, 20), int8(1, 50)
    for a in (wide[:, 30:80], wide[::3, ::4], tall.T, row.expand(9, 50), torch.flip(wide, [0])[:, :50]):
        assert torch.equal(int8_gemm(a, packed), int8_gemm_reference(a, w))
    assert torch.equal(pack_weight(tall.T).data, pack_weight(tall.T.contiguous()).data)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (32, 4), (33, 5), (70, 300), (0, 9), (9, 0)])
def test_packed_weight_survives(shape):
    w = int8(*shape)
    packed = pack_weight(w)
    saved = io.BytesIO()
    torch.save(packed, saved)
    saved.seek(0)
    for twin in (
        packed,
        copy.deepcopy(packed),
        pickle.loads(pickle.dumps(packed)),
        torch.load(saved, weights_only=True),
    ):
        assert isinstance(twin, PackedWeight)
        assert torch.equal(twin.unpack(), w)
        assert (twin.n, twin.k) == shape
    assert torch.equal(packed.to("cpu").data, packed.data)


def test_huge_pages_change_nothing():
    """A weight big enough for whole 2 MB pages, one too small, and one that is not int8."""
    w = int8(1200, HUGE // 1000)
    assert torch.equal(pack_weight(w).unpack(), w)
    assert torch.ops.pyprod.advise_huge_pages.default(int8(100)) is None
    with pytest.raises(RuntimeError, match="advise_huge_pages: t must be int8, got float32"):
        torch.ops.pyprod.advise_huge_pages.default(torch.zeros(3))


def test_a_row_is_the_same_whatever_stands_beside_it():
    """Batch invariance, over every height of a register tile and over what changes path or blocking with M."""
    a, w = int8(300, 70), int8(300, 70)
    packed = pack_weight(w)
    whole = int8_gemm(a, packed)
    for m in (*range(1, 50), 64, 65, 129):
        assert torch.equal(int8_gemm(a[:m], packed), whole[:m]), m


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, p: (a.float(), p), "a must be int8, got float32"),
        (lambda a, p: (a[0], p), r"a must be \[M, 7\], got \[7\]"),
        (lambda a, p: (a[:, :6], p), r"a must be \[M, 7\], got \[3, 6\]"),
        (lambda a, p: (a, PackedWeight(p.data, 64, 7)), r"packed must be \[2, 3, 32, 4\] for n=64, k=7, got \[1, 3"),
        (lambda a, p: (a, PackedWeight(p.data.float(), 5, 7)), "packed must be int8, got float32"),
        (lambda a, p: (a, PackedWeight(p.data.mT.contiguous().mT, 5, 7)), "packed must be contiguous"),
        (lambda a, p: (a, PackedWeight(p.data, -1, 7)), "need n >= 0"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(RuntimeError, match=f"int8_gemm: {message}"):
        int8_gemm(*change(int8(3, 7), pack_weight(int8(5, 7))))


def test_wrong_weights_are_named():
    with pytest.raises(ValueError, match="w_q must be int8, got float32"):
        pack_weight(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"w_q must be .* got .*131072"):
        pack_weight(int8(1, MAX_K + 1))


def test_cost():
    cost = int8_gemm_cost(2, 3, 5)
    assert (cost.ops, cost.bytes) == (60, 2 * 5 + 3 * 5 + 4 * 6)
