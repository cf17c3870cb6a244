"""Rules about what source files hold and how long they are, as functions of a tree: each returns what is wrong."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

KERNEL_ENDINGS = {".cpp", ".cu", ".h", ".cuh"}
#: The longest a file may be, in lines; one idea a file is shorter.
LIMITS = {".py": 400, **dict.fromkeys(KERNEL_ENDINGS, 500)}

PYTHON_HEADER = re.compile(r'#\s*include\s*[<"](Python\.h|pybind11/\S+|torch/(?:extension|python)\.h)[>"]')

#: torch's regions hang in a forked child; ours do not.
TORCH_THREADS = re.compile(r"torch::stable::(parallel_for|get_num_threads)|at::(parallel_for|get_num_threads)")
SAFE_THREADS = "csrc/common/parallel.h"

#: Where packages come from is the user's own configuration: a proxy, a mirror, a folder. In pieces, so that this file
#: names none itself.
REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("npmjs", "org"),
        ("anaconda", "org"),
        ("crates", "io"),
        ("deb", "debian", "org"),
    )
)


def tracked(root: Path) -> list[Path]:
    """Files of the project: those git knows or would not ignore."""
    listing = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")
    return [root / name for name in names if name and (root / name).is_file()]


def python_headers(files: Iterable[Path], root: Path) -> list[str]:
    """Kernels know torch's stable ABI and no Python: one binary for every version. Only the probe is a module."""
    wrong = []
    for path in files:
        inside = path.relative_to(root).parts
        if path.suffix in KERNEL_ENDINGS and inside[0] == "csrc" and inside[1] != "probe":
            found = PYTHON_HEADER.search(path.read_text())
            if found:
                wrong.append(f"{path.relative_to(root)} includes {found[1]}: only csrc/probe may know Python")
    return wrong


def unsafe_threads(files: Iterable[Path], root: Path) -> list[str]:
    """Kernels that use torch's threads without the guard for forked processes."""
    wrong = []
    for path in files:
        name = path.relative_to(root).as_posix()
        if name.startswith("csrc/") and path.suffix in KERNEL_ENDINGS and name != SAFE_THREADS:
            found = TORCH_THREADS.search(path.read_text())
            if found:
                safe = "parallel_for" if "for" in found[0] else "num_threads"
                wrong.append(f"{name} calls {found[0]}: use pyprod::{safe} of {SAFE_THREADS}, which survives fork()")
    return wrong


def registry_hosts(files: Iterable[Path], root: Path) -> list[str]:
    """Files that name the host of a package registry."""
    texts = ((path, path.read_text(errors="ignore").lower()) for path in files)
    return [
        f"{path.relative_to(root)} names {host}: leave the address to pip's configuration"
        for path, text in texts
        for host in REGISTRIES
        if host in text
    ]


def too_long(files: Iterable[Path], root: Path, allowed: Mapping[str, int]) -> list[str]:
    """Files over their limit, and entries of `allowed` (path: lines) to be lowered or dropped: it only shrinks."""
    wrong = []
    lengths = {str(p.relative_to(root)): len(p.read_text().splitlines()) for p in files if p.suffix in LIMITS}
    for name, length in lengths.items():
        limit = max(LIMITS[Path(name).suffix], allowed.get(name, 0))
        if length > limit:
            wrong.append(f"{name} has {length} lines, at most {limit}: split it, one idea a file")
    for name, lines in allowed.items():
        if lengths.get(name, 0) < lines:
            wrong.append(f"{name} has only {lengths.get(name, 0)} lines now: lower or drop its exception ({lines})")
    return wrong


def newest_version(changelog: str) -> str | None:
    """Version of the first second-level heading: ``## 0.1.0 (unreleased)`` gives "0.1.0"."""
    found = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    return found[1] if found else None
