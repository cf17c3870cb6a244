"""Compile one C++ source to a library of ops, with the flags of setup.py: ``compile_op.py SOURCE LIBRARY``."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main(source: str, library: str) -> None:
    spec = importlib.util.spec_from_file_location("pyprod_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    setup = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    torch = setup.find_torch()
    flags = shlex.split(f"{setup.CXX_FLAGS} {setup.TORCH_TARGET}")
    includes = ["-isystem", f"{torch}/include", "-isystem", f"{torch}/include/torch/csrc/api/include", f"-I{ROOT}/csrc"]
    libraries = [f"-L{torch}/lib", "-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch", "-lc10"]
    compiler = shlex.split(setup.find_cxx())
    subprocess.run([*compiler, *flags, *includes, "-shared", source, "-o", library, *libraries], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
