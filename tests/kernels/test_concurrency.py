"""Callers in many threads, forked processes, any number of torch's threads, any batch: the same bits."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from pyprod import kernels
from tests.kernels.calls import CALLS, ROWS

Result = Tensor | tuple[Tensor, ...]


@pytest.fixture(params=CALLS)
def make(request):
    return CALLS[request.param]


@pytest.fixture
def torch_threads():
    """Sets torch's threads; afterwards they are as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def same(one: Result, other: Result) -> bool:
    """Equal bits; a NaN equals itself."""
    ones, others = ((r,) if isinstance(r, Tensor) else r for r in (one, other))
    return all(
        a.shape == b.shape and a.dtype == b.dtype and bytes(a.numpy()) == bytes(b.numpy())
        for a, b in zip(ones, others, strict=True)
    )


def test_many_threads_at_once(make, torch_threads):
    """Each caller has inputs of its own, so that one who sees another's scratch is found out."""
    torch_threads(2)
    calls = [make(rows) for rows in ROWS * 2]
    wanted = [call(x) for call, x in calls]
    start = threading.Barrier(len(calls))

    def caller(index: int) -> bool:
        call, x = calls[index]
        start.wait()
        return all(same(call(x), wanted[index]) for _ in range(20))

    with ThreadPoolExecutor(len(calls)) as pool:
        assert all(pool.map(caller, range(len(calls))))


@pytest.mark.parametrize("rows", ROWS)
def test_any_number_of_threads(make, rows, torch_threads):
    call, x = make(rows)
    torch_threads(1)
    want = call(x)
    for threads in (2, 3, 5, 8):
        torch_threads(threads)
        for _ in range(3):
            assert same(call(x), want), threads


def test_a_row_does_not_depend_on_its_batch(make):
    call, x = make(max(ROWS))
    whole = call(x)
    rows = sorted({0, 1, x.shape[0] // 2, x.shape[0] - 1, *torch.randint(x.shape[0], (5,)).tolist()})
    for part in [slice(row, row + 1) for row in rows] + [slice(3, 10), slice(7, 72), slice(1, 300)]:
        expected = whole[part] if isinstance(whole, Tensor) else tuple(tensor[part] for tensor in whole)
        assert same(call(x[part]), expected), part


def in_child(check) -> int:
    """Exit status of a forked child: 0 when `check()` holds there, -SIGALRM when it takes more than 20 s."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's handler would wait for its own thread
        signal.alarm(20)
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Python 3.12 and newer warn that a process with threads forks: that is what is tested.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("rows", ROWS)
def test_a_forked_child_computes_the_same(make, rows, torch_threads):
    """After regions of two threads, where torch's own ops would wait for threads that the child does not have."""
    torch_threads(2)
    call, x = make(rows)
    want = call(x)
    torch.ones(1 << 20).neg_()  # torch's region, whatever ours did
    assert in_child(lambda: torch.get_num_threads() == 2 and same(call(x), want)) == 0
    assert in_child(lambda: in_child(lambda: same(call(x), want)) == 0) == 0
    assert same(call(x), want)  # the parent still has its threads


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_by_another_thread(torch_threads):
    torch_threads(2)
    call, x = CALLS["int8_linear"](300)
    want = call(x)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: same(call(x), want)).result()
        assert pool.submit(in_child, lambda: same(call(x), want)).result() == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_reports_errors_as_ever(torch_threads):
    torch_threads(2)

    def refused() -> bool:
        with pytest.raises(RuntimeError, match="int8_gemm: a must be int8"):
            kernels.int8_gemm(torch.ones(1, 1), kernels.pack_weight(torch.ones(1, 1, dtype=torch.int8)))
        return True

    assert in_child(refused) == 0
