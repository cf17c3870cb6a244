"""What all tests share: fresh random inputs each run, which a failure tells how to play again.

PYPROD_TEST_SEED: the seed of the run; by default a new one. Each test is seeded by it and its own name, so one test
alone, or on another xdist worker, sees the same numbers.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import zlib
from collections.abc import Generator

import numpy as np
import pytest

VARIABLE = "PYPROD_TEST_SEED"


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(VARIABLE, str(random.SystemRandom().randrange(2**31)))  # xdist workers inherit it
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: what tests start must heed Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"seed: {VARIABLE}={os.environ[VARIABLE]}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A hook and no fixture: hypothesis refuses tests with function-scoped fixtures, and seeds itself."""
    seed = zlib.crc32(f"{os.environ[VARIABLE]} {item.nodeid}".encode())
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:  # a test of what needs no torch does not wait for it either
        import torch

        torch.manual_seed(seed)
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        command = f"{VARIABLE}={os.environ[VARIABLE]} python -m pytest '{item.nodeid}'"
        report.sections.append(("the same inputs again", command))
    return report
