"""Every run has fresh inputs; the same seed gives a test the same inputs, and every test others."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests import conftest


def draw(item: pytest.Item) -> list[float]:
    conftest.pytest_runtest_setup(item)
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_a_seed_is_played_again(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(conftest.VARIABLE, "1")
    first = draw(request.node)
    assert draw(request.node) == first
    monkeypatch.setenv(conftest.VARIABLE, "2")
    assert all(a != b for a, b in zip(draw(request.node), first, strict=True))
