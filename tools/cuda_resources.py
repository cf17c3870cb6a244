"""Read from the compiled CUDA kernels what no GPU is needed for: registers, memory, and kinds of instructions.

For each kernel and architecture in pyprod/libpyprod.so: registers, stack and static shared memory (cuobjdump
--dump-resource-usage), and from its machine code how many instructions there are, how many of the tensor cores, of the
copy engines and of local memory. ptxas says besides where it serializes wgmma. Written to results/cuda-resources/, or
with --check compared with what is there. All depend on the compiler, so --check compares only with those of the same.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "results/cuda-resources/kernels.json"
LIBRARY = ROOT / "pyprod/libpyprod.so"
CUOBJDUMP = Path(sysconfig.get_paths()["purelib"], "nvidia/cu13/bin/cuobjdump")

#: Mnemonics worth a count, by what they do.
COUNTED = {
    "IMMA": "mma.sync",
    "IGMMA": "wgmma",
    "LDGSTS": "cp.async",
    "UTMALDG": "tensor copies",
    "LDSM": "ldmatrix",
    "LDL": "local loads",
    "STL": "local stores",
}
#: A record of these may not hold anything: registers that spill, and wgmmas that wait for each other.
FORBIDDEN = ("stack", "local loads", "local stores")

#: Instructions of a kernel that this architecture has no body of.
EMPTY = 3

Kernels = dict[str, dict[str, int]]


def main() -> int:
    """Write or check the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the record; exit 1 when anything differs")
    options = parser.parse_args()
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else None
    if reason := why_not(known if options.check else None):
        print(f"cuda-resources: skipped: {reason}")
        return 0
    kernels, wrong = read_library(), serialized()
    wrong += [
        f"{name}: {count} {what}" for name, found in kernels.items() for what in FORBIDDEN if (count := found.get(what))
    ]
    if options.check:
        wrong += differences(known["kernels"] if known else {}, kernels)
    if wrong:
        print("\n".join(wrong))
        return 1
    if not options.check:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        record = {"compiler": compiler(), "kernels": dict(sorted(kernels.items()))}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    where = "as recorded" if options.check else f"in {RECORD.relative_to(ROOT)}"
    print(f"cuda-resources: {len(kernels)} kernels {where}")
    return 0


def why_not(known: Mapping[str, Any] | None) -> str | None:
    """Why nothing can be read, or compared with `known`."""
    if not CUOBJDUMP.is_file():
        return f"there is no {CUOBJDUMP.name}; pip install -r requirements/test.txt"
    if compiler() is None:
        return "there is no nvcc"
    if not re.search(r"arch = sm_", run(CUOBJDUMP, "--list-elf", LIBRARY).replace(".sm_", " arch = sm_")):
        return "the library is built without CUDA"
    if known is not None and known["compiler"] != compiler():
        return f"the record is of {known['compiler']}, this is {compiler()}"
    return None


def compiler() -> str | None:
    """The CUDA compiler's version."""
    try:
        found = re.search(r"release [\d.]+, (V[\d.]+)", run("nvcc", "--version"))
    except FileNotFoundError:
        return None
    return f"nvcc {found[1]}" if found else None


def run(*command: str | Path) -> str:
    """What a command prints."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"cuda-resources: {Path(command[0]).name} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def read_library() -> Kernels:
    """What is to be known of each kernel, by ``sm_90a/kernel``."""
    with ThreadPoolExecutor(2) as pool:
        usage, code = pool.map(lambda option: run(CUOBJDUMP, option, LIBRARY), ["-res-usage", "-sass"])
    kernels = read_usage(usage.splitlines())
    for name, counts in read_code(code.splitlines()).items():
        kernels[name].update(counts)
    kernels = {name: found for name, found in kernels.items() if found["instructions"] > EMPTY}
    mangled = [name.partition("/")[2] for name in kernels]
    plain = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    return {
        f"{name.partition('/')[0]}/{shorten(text)}": found
        for (name, found), text in zip(kernels.items(), plain.splitlines(), strict=True)
    }


def shorten(name: str) -> str:
    """A kernel's name and template arguments."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("pyprod::", "")
    without_casts = re.sub(r"\([\w:]+\)(?=\w)", "", name)
    return without_casts.partition("(")[0].replace("> >", ">>")


def read_usage(lines: Iterable[str]) -> Kernels:
    """Registers and memory from ``cuobjdump -res-usage``."""
    kernels: Kernels = {}
    arch = name = ""
    for line in lines:
        if found := re.match(r"arch = (\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function (\w+):", line):
            name = f"{arch}/{found[1]}"
        elif found := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line):
            kernels[name] = dict(zip(("registers", "stack", "shared"), map(int, found.groups()), strict=True))
    return kernels


def read_code(lines: Iterable[str]) -> Kernels:
    """Instructions, and those of COUNTED, from ``cuobjdump -sass``."""
    kernels: dict[str, Counter[str]] = {}
    arch = name = ""
    for line in lines:
        if found := re.match(r"arch = (\w+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function : (\w+)", line):
            name = f"{arch}/{found[1]}"
            kernels[name] = Counter(instructions=0)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?([A-Z][A-Z0-9_]*)", line):
            kernels[name]["instructions"] += found[1] != "NOP"
            if found[1] in COUNTED:
                kernels[name][COUNTED[found[1]]] += 1
    return {name: dict(counts) for name, counts in kernels.items()}


def serialized() -> list[str]:
    """Where ptxas lets wgmmas wait for each other, as it says when it compiles them."""
    sources = [path for path in sorted((ROOT / "csrc").rglob("*.cu")) if "wgmma" in path.read_text()]
    flags = ["-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-DPYPROD_HAS_SM90A=1", "-Xptxas", "-v"]
    flags += ["-cubin", "-gencode", "arch=compute_90a,code=sm_90a", f"-I{ROOT / 'csrc'}", "-o", "/dev/null"]
    wrong = []
    for source in sources:
        done = subprocess.run(["nvcc", *flags, str(source)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"cuda-resources: nvcc failed:\n{done.stderr[-3000:]}")
        wrong += [f"{source.name}: {line}" for line in done.stderr.splitlines() if "serialized" in line]
    return wrong


def differences(known: Mapping[str, Mapping[str, int]], found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What is not as recorded, a line each. It turns both ways: an improvement is recorded, or it would be lost."""
    wrong = [f"{name}: is recorded but not there any more" for name in sorted(known.keys() - found.keys())]
    for name, now in sorted(found.items()):
        before = known.get(name)
        if before is None:
            wrong.append(f"{name}: is not recorded yet")
        elif before != now:
            changed = [
                f"{what} {before.get(what, 0)} -> {now.get(what, 0)}"
                for what in sorted(before.keys() | now.keys())
                if before.get(what, 0) != now.get(what, 0)
            ]
            wrong.append(f"{name}: {', '.join(changed)}")
    return [*wrong, "record what is meant to be so: make cuda-resources"] if wrong else []


def table(results: Path) -> str:
    """Markdown of the record: the matrix products on each architecture that they are written for."""
    path = results / RECORD.relative_to(ROOT / "results")
    if not path.is_file():
        return "*Not recorded yet.*\n"
    record = json.loads(path.read_text())
    names = ["registers", "instructions", *COUNTED.values()]
    lines = ["| kernel | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for name, found in record["kernels"].items():
        if "mma_kernel" in name:
            lines.append(f"| `{name}` | " + " | ".join(str(found.get(what, 0)) for what in names) + " |")
    return (
        "\n".join(lines)
        + f"\n\n*{record['compiler']}; all kernels in [results/cuda-resources](../results/cuda-resources).*\n"
    )


if __name__ == "__main__":
    sys.exit(main())
