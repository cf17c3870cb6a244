"""Count the instructions of every op: a regression signal that no neighbor, clock or cache disturbs.

valgrind's callgrind executes each call of tests/kernels/calls.py and counts what libpyprod.so executes itself, and how
often it asks for heap memory. Written to results/instructions/, or with --check compared with what is there. callgrind
knows AVX2, neither AVX-512 nor AMX: those paths are for the clock alone. Counts depend on the compiler, so --check
compares only with those of the same one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "results/instructions/kernels.json"
ISAS = ("avx2", "portable")

#: Counts repeat to the last instruction but for a few in each row, where a compiler's check whether two buffers overlap
#: ends sooner when the one lies below the other: up to 0.5% of the shortest calls.
TOLERANCE = 0.01
#: Calls before a count, which grow scratch memory and resolve symbols.
WARMUP = 3

Counts = dict[str, dict[str, int]]


def main() -> int:
    """Write or check the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the record; exit 1 when a count differs")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)  # what runs under valgrind
    options = parser.parse_args()
    if options.count:
        make_calls()
        return 0
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else None
    if reason := why_not(known if options.check else None):
        print(f"instructions: skipped: {reason}")
        return 0
    with ThreadPoolExecutor(len(ISAS)) as pool:
        counts = {
            f"{isa}/{name}": n
            for isa, found in zip(ISAS, pool.map(count, ISAS), strict=True)
            for name, n in found.items()
        }
    if not options.check:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        RECORD.write_text(
            json.dumps({"compiler": compiler(), "per_call": dict(sorted(counts.items()))}, indent=1) + "\n"
        )
        print(f"instructions: {len(counts)} counts in {RECORD.relative_to(ROOT)}")
        return 0
    wrong = differences(known["per_call"] if known else {}, counts)
    print("\n".join(wrong) or f"instructions: {len(counts)} counts are as recorded")
    return 1 if wrong else 0


def why_not(known: Mapping[str, Any] | None) -> str | None:
    """Why nothing can be counted, or compared with `known`."""
    if shutil.which("valgrind") is None:
        return "there is no valgrind; install it (apt-get install valgrind)"
    if known is not None and known["compiler"] != compiler():
        return f"the record is of {known['compiler']}, this is {compiler()}"
    return None


def compiler() -> str:
    """Name and version of what setup.py compiles with."""
    command = [*os.environ.get("CXX", "g++").split(), "-dumpfullversion"]
    return f"{command[0]} {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}"


def make_calls() -> None:
    """Each op once, counted."""
    import torch

    from pyprod import _probe
    from tests.kernels.calls import CALLS, ROWS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        for name, make in CALLS.items():
            for rows in ROWS:
                call, x = make(rows)
                for _ in range(WARMUP):
                    call(x)
                _probe.start_counting()
                call(x)
                _probe.stop_counting(f"{name}/{rows}")


def count(isa: str) -> Counts:
    """Counts of all calls on the path `isa`, by ``op/rows``."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no", "--compress-pos=no"]
        command += [f"--callgrind-out-file={folder}/counts", sys.executable, __file__, "--count"]
        environment = os.environ | {"PYPROD_ISA": isa, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"instructions: valgrind failed:\n{done.stderr[-3000:]}")
        dumps = (path.read_text() for path in Path(folder).iterdir())
        return {name: read(text.splitlines()) for text in dumps if (name := trigger(text))}


def trigger(dump: str) -> str | None:
    """The name that stop_counting gave a dump; None of the one that callgrind writes at the end."""
    found = re.search(r"^desc: Trigger: Client Request: (\S+)$", dump, re.MULTILINE)
    return found[1] if found else None


def read(lines: Iterable[str]) -> dict[str, int]:
    """Instructions that libpyprod.so executed itself, and its calls of allocators (callgrind's format, version 1)."""
    instructions = allocations = 0
    ours = allocator = inclusive = False
    for line in lines:
        key, _, value = line.partition("=")
        if key == "ob":
            ours = value.endswith("libpyprod.so")
        elif key == "cfn":
            allocator = bool(
                re.match(r"(malloc|calloc|realloc|aligned_alloc|posix_memalign|mmap|operator new)\b", value)
            )
        elif key == "calls":
            allocations += int(value.split()[0]) if ours and allocator else 0
            inclusive = True  # the next line is the cost of the callee
        elif re.match(r"[\d+*-]", line):
            instructions += int(line.split()[1]) if ours and not inclusive else 0
            inclusive = False
    return {"instructions": instructions, "allocations": allocations}


def differences(known: Mapping[str, Mapping[str, int]], found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What is not as recorded, a line each. It turns both ways: an improvement is recorded, or it would be lost."""
    wrong = [f"{name}: is recorded but not counted any more" for name in known.keys() - found.keys()]
    for name, now in found.items():
        before = known.get(name)
        if before is None:
            wrong.append(f"{name}: is not recorded yet")
            continue
        change = now["instructions"] / max(1, before["instructions"]) - 1
        if not abs(change) <= TOLERANCE:
            counts = f"{before['instructions']:,} -> {now['instructions']:,} instructions ({change:+.1%})"
            wrong.append(f"{name}: {counts}: {'slower: find out why' if change > 0 else 'better: record it'}")
        if now["allocations"] != before["allocations"]:
            wrong.append(f"{name}: {before['allocations']} -> {now['allocations']} heap allocations")
    return sorted(wrong) + (["make instructions records the counts of this tree"] if wrong else [])


if __name__ == "__main__":
    sys.exit(main())
