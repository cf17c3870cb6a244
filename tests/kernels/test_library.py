"""A library that is missing or broken is one clear line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyprod

PACKAGE = Path(pyprod.__file__).parent


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Unavailable: pyprod's extension is not built (run: make build)"),
        (b"not a library", "Unavailable: pyprod's extension does not load: "),
    ],
)
def test_import_without_a_library(tmp_path, content, message):
    copy = tmp_path / "pyprod"
    copy.mkdir()
    for name in ("__init__.py", "types.py", "discover.py"):
        shutil.copy(PACKAGE / name, copy)
    shutil.copytree(PACKAGE / "kernels", copy / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    if content is not None:
        (copy / "libpyprod.so").write_bytes(content)
    here = {name: value for name, value in os.environ.items() if name != "PYPROD_LIBRARY"}
    command = [sys.executable, "-c", "import pyprod.kernels"]
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert message in done.stderr.strip().splitlines()[-1]
