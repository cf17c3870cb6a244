"""The sampling loop and the counters; none of it needs torch."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pyprod import _probe


def durations(*arguments):
    return np.frombuffer(_probe.sample(*arguments), np.int64)


def test_needs_no_torch():
    script = "import sys; from pyprod import _probe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_samples_hold_the_call_and_little_else():
    calls = []
    took = durations(lambda: calls.append(time.sleep(0.002)), 20)
    assert len(took) == len(calls) == 20
    assert took.min() >= 2_000_000
    assert 0 < _probe.clock_overhead_ns() < 1000
    # Calling an empty builtin costs tens of ns; an interpreted loop would show more than a microsecond.
    assert np.median(durations(object, 2001)) < 2000


def test_time_limit():
    start = _probe.now_ns()
    took = durations(lambda: time.sleep(0.005), 10**9, 50_000_000)
    assert 2 <= len(took) <= 10
    assert _probe.now_ns() - start < 1_000_000_000
    assert len(durations(lambda: time.sleep(0.005), 10**9, 1)) == 1


def test_exceptions_pass():
    def fail():
        raise KeyError("from the call")

    with pytest.raises(KeyError, match="from the call"):
        _probe.sample(fail, 5)


@pytest.mark.parametrize("arguments", [(0,), (-1,), (1, -1)])
def test_wrong_limits(arguments):
    with pytest.raises(ValueError, match="must be >="):
        _probe.sample(object, *arguments)
    with pytest.raises(TypeError):
        _probe.sample(3, 1)


def test_ctrl_c_ends_the_loop():
    """Even when the call is a builtin, where the interpreter itself never looks at signals."""
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            _probe.sample(object, 10**12, 20_000_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_cpu_features_are_those_of_the_kernel():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).split())
    known = {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"}
    known |= {"avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
    assert set(_probe.cpu_features()) == known & flags


def test_counters_count_or_say_why_not():
    try:
        counters = _probe.Counters()
    except OSError as error:
        refused = error
        counters = None
    if counters is None:
        assert refused.errno
        assert "counters" in str(refused)
        return
    counters.start()
    sum(range(100_000))
    cycles, instructions = counters.stop()
    assert instructions > 100_000
    assert cycles > 10_000
    counters.close()
    with pytest.raises(OSError, match="closed"):
        counters.start()
