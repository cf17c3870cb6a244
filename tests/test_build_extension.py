"""What setup.py refuses, and that it says so in one line. (That it builds is shown by every other test.)"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def build(tmp_path, python=(), path=None, **environment):
    """Exit status and stderr of build_ext; nothing is compiled before the checks are through."""
    command = [
        sys.executable,
        *python,
        "setup.py",
        "-q",
        "build_ext",
        "--build-temp",
        tmp_path,
        "--build-lib",
        tmp_path,
    ]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYPROD_", "CUDA_", "CXX"))}
    if path is not None:
        variables["PATH"] = str(path)
    done = subprocess.run(command, cwd=ROOT, env=variables | environment, capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("pyprod build: ")]


def program(folder, name, script):
    """An executable that stands for a compiler."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def test_cuda_without_nvcc(tmp_path):
    status, lines = build(tmp_path, PYPROD_CUDA="1", CUDA_HOME=str(tmp_path))
    assert (status, len(lines)) == (2, 1)
    assert f"PYPROD_CUDA=1, but there is no nvcc in CUDA_HOME={tmp_path}; install the CUDA toolkit" in lines[0]


def test_cuda_with_an_nvcc_that_does_not_work(tmp_path):
    (tmp_path / "bin").mkdir()
    program(
        tmp_path / "bin",
        "nvcc",
        'case "$1" in --list-gpu-arch) echo compute_80;; *) echo "no license" >&2; exit 1;; esac',
    )
    status, lines = build(tmp_path, PYPROD_CUDA="1", CUDA_HOME=str(tmp_path), PYPROD_CUDA_ARCHS="80")
    assert status == 2
    assert "does not work: no license" in lines[0]
    status, lines = build(tmp_path, PYPROD_CUDA="1", CUDA_HOME=str(tmp_path), PYPROD_CUDA_ARCHS="80,90a,120a")
    assert status == 2
    assert "can't compile for sm_90a, sm_120a" in lines[0]


def test_wrong_wish(tmp_path):
    status, lines = build(tmp_path, PYPROD_CUDA="yes")
    assert (status, lines) == (2, ["pyprod build: PYPROD_CUDA='yes' is not one of auto, 0, 1"])


def test_no_compiler(tmp_path):
    status, lines = build(tmp_path, CXX="g++-none")
    assert status == 2
    assert "no C++ compiler: g++-none is not in PATH; install g++ >= 11" in lines[0]


@pytest.mark.parametrize(("macros", "got"), [("__GNUC__ 9", "it is 9"), ("__clang_major__ 18", "it is clang")])
def test_a_compiler_that_does_not_fit(tmp_path, macros, got):
    compiler = program(tmp_path, "cxx", f'echo "#define {macros}"')
    status, lines = build(tmp_path, CXX=str(compiler))
    assert status == 2
    assert "is not g++ >= 11" in lines[0]
    assert got in lines[0]


@pytest.mark.parametrize(
    ("version", "message"),
    [(None, "torch is not installed here; install it first"), ("2.9.1", "torch 2.9.1 is too old")],
)
def test_a_torch_that_does_not_fit(tmp_path, version, message):
    """sitecustomize stands for an environment with another torch, or none."""
    if version is None:
        patch = "import importlib.util as u\nf = u.find_spec\nu.find_spec = lambda n: None if n == 'torch' else f(n)"
    else:
        patch = f"import importlib.metadata as m\nf = m.version\nm.version = lambda n: '{version}' if n == 'torch' else f(n)"
    (tmp_path / "sitecustomize.py").write_text(patch)
    status, lines = build(tmp_path, PYTHONPATH=str(tmp_path))
    assert status == 2
    assert message in lines[0]
    assert "--no-build-isolation" in lines[0]


def test_cpu_only_says_so_and_leaves_cuda_out(tmp_path):
    """A compiler that fails at once shows what would be compiled."""
    compiler = program(tmp_path, "cxx", 'case "$*" in *-dM*) echo "#define __GNUC__ 12";; *) exit 1;; esac')
    status, lines = build(tmp_path, CXX=str(compiler), PYPROD_CUDA="auto", CUDA_HOME=str(tmp_path))
    assert status == 2
    assert lines[0].startswith("pyprod build: CPU only (there is no nvcc in CUDA_HOME=")
    assert lines[-1] == "pyprod build: compiling csrc/ failed; the compiler's messages are above"
    rules = (tmp_path / "build.ninja").read_text()
    assert "ops.cpp" in rules
    assert "_cuda.cpp" not in rules
    assert ".cu.o" not in rules
