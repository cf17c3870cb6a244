"""Buffers that the harness owns: both sides of a pair keep a benchmark's tensors in the very same memory.

An edit that changes no instruction of a kernel still moves its heap: uncontrolled, a no-op edit was measured as -29% to
+18%, stably from run to run. And where the pages lie physically decides what collides in the second level cache: two
processes of one tree differed by 3% to 5% in streaming 1 to 2 MB of weights. So the sides, forked from one process,
share memory. Only one runs at a time: it writes its tensors there before it is timed. Virtual addresses are drawn for
each pair, cache line by cache line; physical pages change with each turn, for what collides with a page that only one
side has: the interpreter's own.

`Place` puts there what a benchmark names; `Allocations` what its calls allocate, outputs above all.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from pyprod.types import PyprodError

_Module = TypeVar("_Module", bound=nn.Module)

#: Preloaded into the processes of a pair.
LIBRARY = Path(__file__).parent.parent / "libplace.so"
HUGE = 2 << 20  #: The memory begins at a huge page: below it, virtual and physical addresses agree.
PAGE, LINE = 4096, 64
DEVICE_LINE = 512  #: What CUDA's allocator aligns to, and vector loads and TMA may rely on.
#: A tensor begins up to so many pages after the last one: the 2048 sets of a 2 MB second level cache are 32 pages.
MOST_PAGES = 32
#: So many other sets of physical pages there are at most.
MOST_WINDOWS = 16
#: mmap(2) of Linux; Python does not name them.
_FIXED, _POPULATE = 0x10, 0x8000


class Memory:
    """Bytes that this process and those it forks later see alike; none is taken before it is touched.

    There are many *windows* of other physical pages behind the same addresses.

    Attributes:
        tensor: uint8 ``[size]``, at a huge page.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._file = os.memfd_create("pyprod-gate")
        self._close = weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, size * (MOST_WINDOWS + 1))
        reserved = mmap.mmap(self._file, size + HUGE)
        skip = -ctypes.addressof(ctypes.c_char.from_buffer(reserved)) % HUGE
        self.tensor = torch.frombuffer(reserved, dtype=torch.uint8, count=size, offset=skip)
        self.show(0, size)

    def close(self) -> None:
        """Give it back in this process; those forked before keep theirs. `tensor` must not be used any more."""
        self._close()
        self.tensor = torch.empty(0, dtype=torch.uint8)

    def show(self, window: int, span: int, populate: bool = False) -> None:
        """Have the first `span` bytes be those of a window, 0 to MOST_WINDOWS - 1. What was there is out of sight.

        Args:
            populate: map every page now, which is faster where every page will be touched.
        """
        span = math.ceil(span / PAGE) * PAGE
        if not span:
            return
        flags = mmap.MAP_SHARED | _FIXED | (_POPULATE if populate else 0)
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        got = _mmap(self.tensor.data_ptr(), span, protection, flags, self._file, window * self._size)
        if got != self.tensor.data_ptr():
            raise MemoryError(f"mapping {span >> 20} MB failed: {os.strerror(ctypes.get_errno())}")


_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]


class DeviceMemory:
    """The same for a GPU: both sides take as much, at once, and draw the same places in it. Its pages are the driver's.

    Attributes:
        tensor: uint8 ``[size]`` on the device.
    """

    def __init__(self, size: int, device: str) -> None:
        self.tensor = torch.empty(size, dtype=torch.uint8, device=device)

    def show(self, window: int, span: int, populate: bool = False) -> None:
        """Nothing: there is one window."""


class Allocations:
    """Aligned allocations of this process, all of torch's tensors among them, in shared memory while it is `entered`.

    By the library that pairs preload (csrc/place/place.h). Where that is not built, nothing changes.

    Args:
        memory: shared with the other side.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._library = ctypes.CDLL(None)
        self.preloaded = hasattr(self._library, "place_memory")
        if self.preloaded:
            self._library.place_extent.restype = ctypes.c_size_t
            address, size = memory.tensor.data_ptr(), len(memory.tensor)
            self._library.place_memory(ctypes.c_void_p(address), ctypes.c_size_t(size))

    @property
    def extent(self) -> int:
        """Bytes up to the end of the last allocation."""
        return int(self._library.place_extent()) if self.preloaded else 0

    def reset(self, seed: int) -> None:
        """Draw new addresses."""
        if self.preloaded:
            self._library.place_reset(ctypes.c_uint64(seed))

    @contextlib.contextmanager
    def entered(self, window: int = 0) -> Iterator[None]:
        """Within, the memory is this process's: what it had there is as it left it, in the pages of that window."""
        if not self.preloaded:
            yield
            return
        self._memory.show(window, self.extent)
        self._library.place_enter()
        try:
            yield
        finally:
            self._library.place_leave()


class Place:
    """Puts tensors at drawn addresses. A benchmark's setup function gets one and passes all its tensors through it.

    Args:
        memory: shared with the other side, or of a device.
        seed: of the addresses. Both sides draw the same for the first tensor, the second ...
    """

    def __init__(self, memory: Memory | DeviceMemory, seed: str) -> None:
        self._memory = memory
        self._rng = random.Random(seed)
        self._line = LINE if memory.tensor.device.type == "cpu" else DEVICE_LINE
        self._cursor = 0
        self._inputs: list[tuple[Tensor, Tensor]] = []
        self._weights: list[tuple[Tensor, Tensor]] = []

    def input(self, tensor: Tensor) -> Tensor:
        """A placed copy of what changes from call to call in production: its values are moved round between slices."""
        placed = self._put(tensor)
        self._inputs.append((placed, _copy_outside(tensor)))
        return placed

    def weight(self, tensor: Tensor) -> Tensor:
        """A placed copy of what stays; contiguous."""
        placed = self._put(tensor)
        self._weights.append((placed, _copy_outside(tensor)))
        return placed

    def module(self, module: _Module) -> _Module:
        """The same module, its parameters and buffers placed."""
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.layout == torch.strided:
                tensor.data = self.weight(tensor)
        return module

    @property
    def extent(self) -> int:
        """Bytes up to the end of the last tensor."""
        return self._cursor

    def write(self, seed: int, window: int = 0) -> None:
        """Write every tensor into the memory that the other side has used, in the pages of a window.

        The inputs are moved round by a number of elements drawn by `seed`: a result that was kept from before is wrong.
        """
        self._memory.show(window, self._cursor, populate=True)
        for placed, original in self._weights:
            placed.copy_(original)
        rng = random.Random(seed)
        for placed, original in self._inputs:
            shift = rng.randrange(max(1, original.numel()))
            placed.copy_(original.flatten().roll(shift).view(original.shape))

    def _put(self, tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        if not size:
            return torch.empty_like(tensor)
        start = self._cursor + self._rng.randrange(MOST_PAGES) * PAGE
        start += self._rng.randrange(PAGE // self._line) * self._line
        self._cursor = math.ceil((start + size) / PAGE) * PAGE
        if self._cursor > len(self._memory.tensor):
            raise PyprodError(
                f"the benchmark's tensors need more than the {len(self._memory.tensor) >> 20} MB set aside for them"
            )
        placed = self._memory.tensor[start : start + size].view(tensor.dtype).view(tensor.shape)
        return placed.copy_(tensor.detach())


def _copy_outside(tensor: Tensor) -> Tensor:
    """A copy that numpy allocates, outside of shared memory; on its device, of a tensor that is on one."""
    if tensor.device.type != "cpu":
        return tensor.detach().clone()
    flat = tensor.detach().contiguous().view(-1)
    if not len(flat):
        return tensor
    return torch.from_numpy(flat.view(torch.uint8).numpy().copy()).view(tensor.dtype).view(tensor.shape)
