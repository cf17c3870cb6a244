"""A factory of requests over the tiny models, as the builder makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pyprod.backends import Request
from tests.backends.tiny_models import build, inputs


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a candidate's process: pinned threads, and no compiled code of an earlier one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def request_for(tmp_path: Path, shared_cache: Path) -> Callable[..., Request]:
    """``request_for("transformer", "fp32", batch=3)``: a Request over a fresh tiny model."""

    def make(name: str, variant: str, batch: int = 1, device: str = "cpu", model: nn.Module | None = None) -> Request:
        workdir = tmp_path / str(len(list(tmp_path.iterdir())))
        workdir.mkdir()
        return Request(
            model=model or build(name),
            example=inputs(name, batch, seed=1),
            calibration=inputs(name, 32, seed=2),
            quantspec=None,
            variant=variant,
            device=device,
            threads=1,
            workdir=workdir,
            cache=shared_cache,
        )

    return make
