import ctypes

import pytest
import torch


@pytest.fixture
def poison():
    """Memory that torch hands out is bytes of 255 until it is written: NaN in every float format, -1 as an integer."""
    libc, perturb = ctypes.CDLL(None), -6  # M_PERTURB of malloc.h, which fills with 255 ^ value
    if libc.mallopt(perturb, 0x100):  # 0 under a sanitizer, whose own allocator fills with 0xbe
        assert torch.empty(1000).isnan().all()
    yield
    libc.mallopt(perturb, 0)
