import pytest
import torch


@pytest.fixture(autouse=True)
def seed():
    """Fresh inputs each run; the seed is printed with a failure."""
    seed = torch.seed() % 2**32
    print(f"torch.manual_seed({seed})")
    torch.manual_seed(seed)


@pytest.fixture
def poison():
    """Every buffer that torch hands out holds NaN or the largest integer until it is written."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
