"""Calls leave nothing behind."""

from __future__ import annotations

import ctypes
import gc
import os
import threading

import psutil
import pytest
import torch

from tests.kernels.calls import CALLS

pytestmark = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer's allocator keeps what is freed, to guard it"
)


class Mallinfo2(ctypes.Structure):
    """See mallinfo(3)."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


def held() -> int:
    """Bytes that malloc has given out and not got back, of all arenas and large blocks."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    gc.collect()
    info = mallinfo2()
    return info.uordblks + info.hblkhd


@pytest.mark.parametrize(("rows", "threads", "count"), [(1, 1, 1000), (300, 1, 300), (40, 2, 100)])
@pytest.mark.parametrize("op", CALLS)
def test_calls_leave_nothing(op, rows, threads, count):
    """malloc's own count sees the smallest leak: its least block is 32 bytes, half of one a call is allowed for noise.

    What is not malloc's (mapped scratch) shows in the resident size.
    """
    torch.set_num_threads(threads)  # conftest.py sets it anew for each test
    call, x = CALLS[op](rows)
    with torch.inference_mode():
        for _ in range(100):
            call(x)
        before, resident = held(), psutil.Process().memory_info().rss
        for _ in range(count):
            call(x)
    assert held() - before < 16 * count
    assert psutil.Process().memory_info().rss - resident < 4 << 20


@pytest.mark.parametrize("op", CALLS)
def test_threads_that_end_take_their_scratch_along(op):
    call, x = CALLS[op](300)

    def run(count):
        for _ in range(count):
            thread = threading.Thread(target=call, args=(x,))
            thread.start()
            thread.join()

    torch.set_num_threads(1)
    run(20)
    before = held()
    run(100)
    assert held() - before < 100 << 10  # scratch of one thread is more than the 1 KB that this allows each
