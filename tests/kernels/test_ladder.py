"""The rungs of the ladder against the kernels' twin: what docs/kernels-cpu.md compares must at least be right."""

import pytest
import torch

from pyprod import _probe
from pyprod.kernels.gemm import int8_gemm_reference, pack_weight

SHAPES = [
    (1, 1, 1),
    (5, 7, 63),
    (33, 70, 65),
    (9, 31, 4097),
    (31, 32, 64),
    (8, 33, 128),
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
]


@pytest.mark.parametrize(("name", "packed"), _probe.ladder_rungs())
def test_a_rung_is_exact(name, packed):
    for m, n, k in SHAPES:
        a, w = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((m, k), (n, k)))
        weight = pack_weight(w).data if packed else w
        out = torch.full((m, n), -7, dtype=torch.int32)
        _probe.ladder_product(name, a.data_ptr(), weight.data_ptr(), m, n, k, out.data_ptr())
        assert torch.equal(out, int8_gemm_reference(a, w)), (m, n, k)


def test_a_missing_rung_is_named():
    with pytest.raises(ValueError, match="this CPU has no rung attic"):
        _probe.ladder_product("attic", 0, 0, 0, 0, 0, 0)
