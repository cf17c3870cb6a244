from __future__ import annotations

import pytest
import synthetic

from pyprod.measure.report import summarize


@pytest.fixture(scope="session")
def record():
    return synthetic.record()


@pytest.fixture(scope="session")
def frame(record):
    return summarize(record)
