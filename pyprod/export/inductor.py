"""The settings under which Inductor builds: cold, in a folder of its own, without probing the compiler first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyprod.export.quiet import quiet


@contextmanager
def building(folder: Path, threads: int) -> Iterator[None]:
    """Build everything within this block cold and in `folder`, with `threads` compiler processes.

    Build time is a measured number, so that no kernel or graph of an earlier build may be found. What belongs to
    the machine and not to the model is shared or skipped: the precompiled header of torch's C++ headers (kept by
    Inductor under the temporary folder), and a test compilation of each instruction set that /proc/cpuinfo
    already shows, which took 10 s of an 18 s build.

    Args:
        folder: where Inductor writes sources and libraries; they must outlive the compiled model.
        threads: compiler processes at a time; 1 compiles in this process.
    """
    import torch._inductor.config as config  # 2 s to import

    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        with quiet(), config.patch({"cpp.vec_isa_ok": True, "compile_threads": threads}):
            yield
    finally:
        if before is None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
