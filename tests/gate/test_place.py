"""Buffers: the same memory for both sides, what each had there as it left it, addresses that are drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from pyprod.gate.place import LIBRARY, MOST_WINDOWS, Memory, Place
from pyprod.types import PyprodError

SIZE = 64 << 20


def offsets(seed: str, *shapes: tuple[int, ...]) -> list[int]:
    memory = Memory(SIZE)
    place = Place(memory, seed)
    return [place.weight(torch.ones(shape)).data_ptr() - memory.tensor.data_ptr() for shape in shapes]


def test_the_same_seed_gives_the_same_addresses() -> None:
    shapes = [(3,), (100, 100), (1,), (257, 63)]
    first = offsets("a", *shapes)
    assert offsets("a", *shapes) == first
    assert offsets("b", *shapes) != first
    assert all(offset % 64 == 0 for offset in first)


def test_addresses_take_every_line_of_a_page() -> None:
    lines = {offsets(str(seed), (1,))[0] % 4096 // 64 for seed in range(1000)}
    assert lines == set(range(64))


def test_tensors_do_not_overlap() -> None:
    place = Place(Memory(SIZE), "x")
    placed = [place.weight(torch.full((n,), float(n))) for n in (1, 1023, 1024, 1025, 5000)]
    assert all(bool((tensor == float(tensor.numel())).all()) for tensor in placed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.bool])
def test_values_shapes_and_dtypes_are_kept(dtype: torch.dtype) -> None:
    tensor = torch.randint(0, 2, (3, 5, 7)).to(dtype).transpose(0, 2)
    placed = Place(Memory(SIZE), "x").weight(tensor)
    assert torch.equal(placed, tensor)
    assert placed.dtype == dtype
    assert placed.is_contiguous()


def test_tensors_are_written_in_every_window() -> None:
    place = Place(Memory(SIZE), "x")
    w = place.weight(torch.arange(50_000))
    for window in (0, 3, 1, 3):
        place.write(window, window)
        assert torch.equal(w, torch.arange(50_000))


def test_nothing_can_be_placed() -> None:
    place = Place(Memory(SIZE), "x")
    assert place.input(torch.empty(0, 3)).shape == (0, 3)
    place.write(1)


def test_inputs_move_and_weights_return() -> None:
    place = Place(Memory(SIZE), "x")
    original = torch.arange(1000)
    x, w = place.input(original), place.weight(original)
    address = x.data_ptr()
    seen = set()
    for seed in range(20):
        x.zero_()
        w.zero_()
        place.write(seed)
        assert torch.equal(x.sort().values, original)
        assert torch.equal(w, original)
        seen.add(int(x[0]))
    assert len(seen) > 10
    assert x.data_ptr() == address


def test_a_module_is_placed_whole() -> None:
    memory = Memory(SIZE)
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)).eval()
    x = torch.randn(4, 8)
    before = module(x)
    assert torch.equal(Place(memory, "x").module(module)(x), before)
    inside = range(memory.tensor.data_ptr(), memory.tensor.data_ptr() + SIZE)
    assert all(t.data_ptr() in inside for t in (*module.parameters(), *module.buffers()))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PyprodError, match="more than the 64 MB"):
        Place(Memory(SIZE), "x").weight(torch.empty(SIZE, dtype=torch.int8))


def test_windows_are_other_pages_behind_the_same_addresses() -> None:
    memory = Memory(SIZE)
    for window in range(MOST_WINDOWS):
        memory.show(window, 10_000)
        memory.tensor[:10_000].fill_(window + 1)
    memory.tensor[20_000] = 77
    for window in range(MOST_WINDOWS):
        memory.show(window, 10_000)
        assert bool((memory.tensor[:10_000] == window + 1).all())
        assert int(memory.tensor[20_000]) == 77  # beyond the span


def run(code: str) -> dict[str, object]:
    """Run code that prints an object, with the library preloaded; `allocations` is there, 256 MB of shared memory."""
    start = (
        "import ctypes, json, os, torch\n"
        "from pyprod.gate.place import Allocations, Memory\n"
        "memory = Memory(256 << 20)\n"
        "allocations = Allocations(memory)\n"
        "def offset(t): return t.data_ptr() - memory.tensor.data_ptr()\n"
        "def inside(t): return 0 <= offset(t) < len(memory.tensor)\n"
    )
    environment = os.environ | {"LD_PRELOAD": str(LIBRARY)}
    done = subprocess.run([sys.executable, "-c", start + code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_allocations_are_shared_memory_only_while_entered() -> None:
    found = run("""
with allocations.entered():
    within, small = torch.ones(1000), torch.ones(1)
without = torch.ones(1000)
print(json.dumps([allocations.preloaded, inside(within), inside(small), inside(without)]))
""")
    assert found == [True, True, False, False]  # less than a line is not placed


def test_steady_calls_get_the_same_addresses() -> None:
    found = run("""
allocations.reset(1)
with allocations.entered():
    x = torch.ones(512, 512)
    def call(): return (x @ x).relu().sum(0)
    first = [offset(call()) for _ in range(2)]
    rest = {offset(call()) for _ in range(50)}
print(json.dumps([first[1] in rest, len(rest)]))
""")
    assert found == [True, 1]


def test_two_processes_take_turns_and_keep_what_they_had() -> None:
    """Each writes its own values at the same addresses; the other's turn must not show."""
    found = run("""
pipes = [os.pipe() for _ in range(3)]
def side(value, mine, next_one):
    allocations.reset(7)
    bad = places = 0
    kept = []
    for turn in range(6):
        os.read(pipes[mine][0], 1)
        with allocations.entered(turn % 3):
            bad += sum(int((t != value * i).sum()) for i, t in enumerate(kept))
            del kept[::3]  # what is freed is used again
            kept = kept[:0] if turn == 3 else kept
            kept = [t.clone().fill_(value * i) for i, t in enumerate(kept)]
            kept += [torch.full((n,), float(value * (len(kept) + j))) for j, n in enumerate((100, 5000, 70000))]
            places = [offset(t) for t in kept]
        os.write(pipes[next_one][1], b"x")
    return [bad, places]
out = os.pipe()
if not os.fork():
    os.write(out[1], json.dumps(side(3.0, 0, 1)).encode())
    os._exit(0)
os.write(pipes[0][1], b"x")
mine = side(5.0, 1, 0)
theirs = json.loads(os.read(out[0], 65536))
print(json.dumps([mine, theirs]))
""")
    (bad, places), (their_bad, their_places) = found  # type: ignore[misc]
    assert (bad, their_bad) == (0, 0)
    assert places == their_places


def test_realloc_leaves_shared_memory_with_its_bytes() -> None:
    found = run("""
libc = ctypes.CDLL(None)
libc.aligned_alloc.restype = libc.realloc.restype = ctypes.c_void_p
with allocations.entered():
    p = libc.aligned_alloc(64, 4096)
    was_inside = 0 <= p - memory.tensor.data_ptr() < len(memory.tensor)
    ctypes.memset(p, 7, 4096)
q = libc.realloc(ctypes.c_void_p(p), 10000)
ok = ctypes.string_at(q, 4096) == bytes([7]) * 4096
is_inside = 0 <= q - memory.tensor.data_ptr() < len(memory.tensor)
libc.free(ctypes.c_void_p(q))
print(json.dumps([was_inside, ok, is_inside]))
""")
    assert found == [True, True, False]


def test_more_than_there_is_comes_from_the_heap() -> None:
    found = run("""
with allocations.entered():
    tensors = [torch.full((40 << 20,), i, dtype=torch.uint8) for i in range(10)]
    sums = [int(t[::4096].float().mean()) for t in tensors]
print(json.dumps([sums, sum(map(inside, tensors))]))
""")
    assert found[0] == list(range(10))  # type: ignore[index]
    assert 4 <= found[1] <= 6  # type: ignore[index,operator]


def test_alignment_is_kept() -> None:
    found = run("""
libc = ctypes.CDLL(None)
libc.aligned_alloc.restype = ctypes.c_void_p
with allocations.entered():
    wrong = [a for a in (64, 128, 4096, 65536, 1 << 21) for n in (a, 3 * a) if libc.aligned_alloc(a, n) % a]
print(json.dumps(wrong))
""")
    assert found == []
