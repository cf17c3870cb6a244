"""How long a call keeps a GPU busy: between two events on its stream, replayed as a graph where it can be captured.

A graph holds the kernels alone, without what Python and the dispatcher take to launch them. Before each sample the
second level cache is overwritten, unless hot ones are wanted: a call that finds its operands there from the last call
is no call of production.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from pyprod.types import Mismatch

#: Calls on a stream of its own before a capture, for what only first calls do: PyTorch's CUDA graph notes.
WARM_CALLS = 3
#: Samples whose events are read at once.
BATCH = 20
#: The device may be busy so much longer than the timed stream before that counts as hidden work: share, and seconds.
HIDDEN_SHARE, HIDDEN_S = 0.2, 50e-6
HIDDEN_TRIES = 5


class Stopwatch:
    """Times one call.

    Attributes:
        graph: whether graph replays are timed; else the call itself, launches included.

    Args:
        call: launches all its work on the current stream, on tensors that stay where they are.
        cold: overwrite the second level cache before each sample.
        cuda: ``torch.cuda``, or what stands for it.

    Raises:
        Mismatch: the call leaves work on other streams, which no event on its own would see.
    """

    def __init__(self, call: Callable[[], object], cold: bool = True, cuda: Any = torch.cuda) -> None:
        self._cuda, self._call = cuda, call
        for _ in range(WARM_CALLS):
            call()
        cuda.synchronize()
        self._refuse_hidden_work()
        self._run = self._captured() or call
        self.graph = self._run is not call
        self._flush = self._overwriting() if cold else lambda: None

    def sample(self, max_count: int, max_ns: int) -> list[int]:
        """Durations in ns of at least one call; no further batch once `max_ns` have passed."""
        durations: list[int] = []
        deadline = time.perf_counter_ns() + max_ns
        while len(durations) < max_count:
            events = [self._timed() for _ in range(min(BATCH, max_count - len(durations)))]
            self._cuda.synchronize()
            durations += [round(start.elapsed_time(end) * 1e6) for start, end in events]
            if time.perf_counter_ns() >= deadline:
                break
        return durations

    def result(self) -> object:
        """What the call returns, run as it is timed."""
        returned = self._run()
        self._cuda.synchronize()
        return self._kept if self.graph else returned

    def _timed(self) -> tuple[Any, Any]:
        self._flush()
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._run()
        end.record()
        return start, end

    def _captured(self) -> Callable[[], object] | None:
        """Replay of the call as a graph; None where it can't be captured: it synchronizes, or copies to the host."""
        graph = self._cuda.CUDAGraph()
        stream = self._cuda.Stream()
        stream.wait_stream(self._cuda.current_stream())
        try:
            with self._cuda.stream(stream):
                self._call()
            self._cuda.synchronize()
            with self._cuda.graph(graph, stream=stream):
                self._kept = self._call()  # what it returned lives in the graph's memory
        except RuntimeError:
            self._cuda.synchronize()
            return None
        replay: Callable[[], object] = graph.replay
        return replay

    def _refuse_hidden_work(self) -> None:
        """The least of some tries: the host may be interrupted in any of them, hidden work is in all."""
        hidden, own = min(self._busy() for _ in range(HIDDEN_TRIES))
        if hidden > max(HIDDEN_S, HIDDEN_SHARE * own):
            raise Mismatch(f"the device was busy for {hidden * 1e6:.0f} µs after the timed stream: work on another one")

    def _busy(self) -> tuple[float, float]:
        """Seconds that the device goes on after the timed stream has ended, and those until then."""
        start = time.perf_counter()
        self._call()
        self._cuda.current_stream().synchronize()
        own = time.perf_counter() - start
        self._cuda.synchronize()
        return time.perf_counter() - start - own, own

    def _overwriting(self) -> Callable[[], object]:
        """Write twice the second level cache."""
        size = 2 * self._cuda.get_device_properties(self._cuda.current_device()).L2_cache_size
        waste = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device())
        return lambda: waste.zero_()

    def _device(self) -> str:
        return "cuda" if self._cuda is torch.cuda else "cpu"
