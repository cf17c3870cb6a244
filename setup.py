"""Build csrc/ into pyprod/libpyprod.so (ops, torch's stable ABI), pyprod/libpyprod_onnxruntime.so (custom operators,
no torch), pyprod/_probe (pybind11, no torch) and pyprod/libplace.so (preloaded by the gate; plain C++).

Environment:
    PYPROD_CUDA: "auto" (default: CUDA code is built where nvcc works), "1" (refuse to build without it) or "0".
    PYPROD_CUDA_ARCHS: comma-separated architectures instead of the default, e.g. "90a" or "80,90a".
    CUDA_HOME: where the CUDA toolkit is, when nvcc is not in PATH or /usr/local/cuda.
    PYPROD_SANITIZE: builds the ops alone, for the CPU, with these sanitizers: "address,undefined" (make sanitize).
    PYPROD_GATE_LAYOUT: a number by which objects are linked in another order (default: 0, by name), for pyprod gate.
    CXX: the C++ compiler, default g++ (>= 11).
    MAX_JOBS: parallel compilations, default: the CPUs of this process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OPS, PROBE, PLACE = "pyprod.libpyprod", "pyprod._probe", "pyprod.libplace"
ONNXRUNTIME = "pyprod.libpyprod_onnxruntime"
#: Folders below csrc/ that are libraries of their own; the emulator is built by its tests.
APART = ("csrc/probe/", "csrc/place/", "csrc/onnxruntime/", "csrc/emulator/")
#: The matrix product without its torch ops.
GEMM = tuple(
    f"csrc/int8_gemm/{path}.cpp" for path in ("amx", "avx2", "avx512_vnni", "avx_vnni", "dispatch", "portable")
)

# 2.11 is the oldest torch whose stable ABI has all that csrc/ uses; a library built for it also loads on newer ones.
TORCH_OLDEST = (2, 11)
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"
GXX_OLDEST = 11
SETUPTOOLS_OLDEST = 77  # the first that reads pyproject.toml's license expression
# Ampere, Ada, Hopper, and both Blackwells ("a": with the features of exactly that architecture).
CUDA_ARCHS = ("80", "89", "90a", "100a", "120a")

WARNINGS = "-Wall -Wextra -Werror -Wno-psabi"  # GCC 4.6 notes about vectors: one compiler builds all
# No contraction to FMA: every instruction set then rounds alike, so results are bit-identical across them.
CXX_FLAGS = f"-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off {WARNINGS}"
# The first report ends the process: what comes after it is noise. Frame pointers and lines make the report readable.
SANITIZE = os.environ.get("PYPROD_SANITIZE", "")
if SANITIZE:
    CXX_FLAGS += f" -fsanitize={SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
NVCC_FLAGS = (
    "-std=c++20 -O3 -fmad=false --expt-relaxed-constexpr -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra "
    "-Werror all-warnings -Xptxas --warn-on-spills,-Werror"
)


def refuse(message: str) -> NoReturn:
    """Stop the build with one line that says what is wrong and what to do."""
    sys.stderr.write(f"pyprod build: {message}\n")
    sys.exit(2)


def run(*command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a compiler; its output is captured, its exit status is the caller's to look at."""
    return subprocess.run([str(c) for c in command], input=stdin, capture_output=True, text=True)


def find_torch() -> Path:
    """Folder of the installed torch (not imported: that takes seconds), or refuse."""
    install = "install it first (pip install torch==2.13.0), then build with --no-build-isolation"
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        refuse(f"torch is not installed here; {install}")
    version = importlib.metadata.version("torch")
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < TORCH_OLDEST:
        refuse(f"torch {version} is too old, need >= {'.'.join(map(str, TORCH_OLDEST))}; {install}")
    return Path(spec.submodule_search_locations[0])


def find_cxx() -> str:
    """The C++ compiler's command, or refuse."""
    cxx = os.environ.get("CXX", "g++")
    path = shutil.which(shlex.split(cxx)[0])
    if path is None:
        refuse(f"no C++ compiler: {cxx} is not in PATH; install g++ >= {GXX_OLDEST} (apt-get install g++) or set CXX")
    macros = run(*shlex.split(cxx), "-dM", "-E", "-x", "c++", "-").stdout
    defined = dict(re.findall(r"#define (\w+) (\d+)$", macros, re.MULTILINE))
    if "__clang_major__" in defined or int(defined.get("__GNUC__", 0)) < GXX_OLDEST:
        got = "clang" if "__clang_major__" in defined else defined.get("__GNUC__", "unknown")
        refuse(f"{path} is not g++ >= {GXX_OLDEST} (it is {got}); install a newer g++ or set CXX")
    return cxx


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit that was seen to compile and link."""

    nvcc: Path
    archs: tuple[str, ...]

    @property
    def flags(self) -> str:
        binaries = [f"-gencode arch=compute_{arch},code=sm_{arch}" for arch in self.archs]
        # PTX of the oldest architecture runs, by the driver's compiler, on any newer one that is not listed.
        plain = [arch for arch in self.archs if arch.isdigit()][:1]
        binaries.append(f"-DPYPROD_HAS_SM90A={int('90a' in self.archs)}")  # whether Hopper's kernels may be called
        return " ".join([*binaries, *(f"-gencode arch=compute_{arch},code=compute_{arch}" for arch in plain)])


def find_cuda(cxx: str) -> Cuda | None:
    """The CUDA toolkit to use, None for a CPU-only build (said on stderr, with the reason), or refuse."""
    want = os.environ.get("PYPROD_CUDA", "auto")
    if want not in ("auto", "0", "1"):
        refuse(f"PYPROD_CUDA={want!r} is not one of auto, 0, 1")
    if SANITIZE and want == "1":
        refuse("PYPROD_CUDA=1 and PYPROD_SANITIZE exclude each other: the sanitizers see CPU code only")
    if SANITIZE or want == "0":
        sys.stderr.write(f"pyprod build: CPU only ({'PYPROD_SANITIZE' if SANITIZE else 'PYPROD_CUDA=0'})\n")
        return None
    found = probe_cuda(cxx)
    if isinstance(found, Cuda):
        sys.stderr.write(f"pyprod build: CPU + CUDA for sm_{', sm_'.join(found.archs)} ({found.nvcc})\n")
        return found
    if want == "1":
        refuse(f"PYPROD_CUDA=1, but {found}; install the CUDA toolkit >= 12.8, set CUDA_HOME, or use PYPROD_CUDA=0")
    sys.stderr.write(f"pyprod build: CPU only ({found})\n")
    return None


def probe_cuda(cxx: str) -> Cuda | str:
    """A toolkit that compiles and links, or why there is none."""
    home = os.environ.get("CUDA_HOME")
    places = [Path(home, "bin")] if home else [*map(Path, os.get_exec_path()), Path("/usr/local/cuda/bin")]
    nvcc = next((p / "nvcc" for p in places if (p / "nvcc").is_file()), None)
    if nvcc is None:
        return f"there is no nvcc in {f'CUDA_HOME={home}' if home else 'PATH or /usr/local/cuda'}"
    wanted = os.environ.get("PYPROD_CUDA_ARCHS", "").replace(" ", "")
    archs = tuple(wanted.split(",")) if wanted else CUDA_ARCHS
    known = set(re.findall(r"compute_(\w+)", run(nvcc, "--list-gpu-arch").stdout))
    missing = [arch for arch in archs if arch.rstrip("af") not in known]
    if missing:
        return f"{nvcc} can't compile for sm_{', sm_'.join(missing)} (limit PYPROD_CUDA_ARCHS)"
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-ccbin", shlex.split(cxx)[0], "-cudart", "static", "-shared", "-Xcompiler", "-fPIC"]
        source = "#include <cuda_runtime.h>\nint n() { int c; return cudaGetDeviceCount(&c); }\n"
        trial = run(nvcc, *flags, "-x", "cu", "-", "-o", Path(folder, "trial.so"), stdin=source)
    if trial.returncode != 0:
        reason = (trial.stderr or trial.stdout).strip().splitlines()
        return f"{nvcc} does not work: {reason[0] if reason else 'no message'}"
    return Cuda(nvcc, archs)


def ninja_file(torch: Path, cxx: str, cuda: Cuda | None, probe_name: str) -> str:
    """build.ninja: one object per source with a depfile, four shared libraries. Paths are absolute."""
    import pybind11

    torch_flags = f"{TORCH_TARGET} -isystem {torch}/include -isystem {torch}/include/torch/csrc/api/include"
    python_flags = f"-isystem {pybind11.get_include()} -isystem {sysconfig.get_paths()['include']}"
    # Without --no-as-needed the linker drops libtorch_cpu and loading fails on aoti_torch_dtype_float32.
    libraries = f"-L{torch}/lib -Xlinker --no-as-needed -ltorch_cpu -ltorch -lc10"
    linker = f"{cxx} -fsanitize={SANITIZE}" if SANITIZE else cxx
    nvcc = f"{cuda.nvcc} -ccbin {shlex.split(cxx)[0]}" if cuda else ""
    common = f"-I{ROOT}/csrc -MD -MF $out.d -c $in -o $out"
    lines = [
        "ninja_required_version = 1.8",
        f"rule cxx\n command = {cxx} {CXX_FLAGS} $flags {common}\n description = c++ $in",
        " depfile = $out.d\n deps = gcc",
        f"rule nvcc\n command = {nvcc} {NVCC_FLAGS} {cuda.flags if cuda else ''} {common}\n description = nvcc $in",
        " depfile = $out.d\n deps = gcc",
        "rule link\n command = $linker -shared $in -o $out $libs\n description = link $out",
    ]

    def objects(sources: list[str], flags: str) -> str:
        built = []
        for source in sources:
            built.append(f"{source}.o")
            rule = "nvcc" if source.endswith(".cu") else "cxx"
            lines.append(f"build {built[-1]}: {rule} {ROOT}/{source}\n flags = {flags}")
        return linked(built)

    lines.append(f"build libpyprod.so: link {objects(ops_sources(cuda is not None), torch_flags)}")
    lines.append(f" linker = {f'{nvcc} -cudart static' if cuda else linker}\n libs = {libraries}")
    lines.append(f"build {probe_name}: link {objects(probe_sources(), python_flags)}\n linker = {cxx}")
    custom = linked([f"{source}.o" for source in GEMM])  # the very objects of libpyprod
    custom += " " + objects(sources("onnxruntime/*.cpp"), "")
    lines.append(f"build libpyprod_onnxruntime.so: link {custom}\n linker = {linker}")
    lines.append(f"build libplace.so: link {objects(sources('place/*.cpp'), '')}\n linker = {cxx}")
    return "\n".join(lines) + "\n"


def linked(objects: list[str]) -> str:
    """Objects in the order in which they are linked: `pyprod gate` measures several, because where a function lies
    changes how fast it is."""
    layout = os.environ.get("PYPROD_GATE_LAYOUT", "0")
    if not layout.isdecimal():
        refuse(f"PYPROD_GATE_LAYOUT={layout!r} is not a number")
    if int(layout):
        random.Random(int(layout)).shuffle(objects)
    return " ".join(objects)


def sources(*patterns: str) -> list[str]:
    """Files below csrc/ relative to the project, sorted, so that equal trees give equal builds."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").rglob(pattern))


def ops_sources(cuda: bool) -> list[str]:
    """Sources of libpyprod: ``*.cu`` and ``*_cuda.cpp`` only where CUDA is built."""
    found = [source for source in sources("*.cpp", "*.cu") if not source.startswith(APART)]
    return found if cuda else [source for source in found if not source.endswith(("_cuda.cpp", ".cu"))]


def probe_sources() -> list[str]:
    """Sources of the pybind11 module."""
    return sources("probe/*.cpp")


class Build(build_ext):
    """build_ext by ninja: parallel, incremental, all libraries in one run."""

    def get_ext_filename(self, fullname: str) -> str:
        # setuptools asks with the full and with the bare name. Only the probe knows Python, and has its version there.
        name = super().get_ext_filename(fullname)
        return name if fullname.endswith("_probe") else name.replace(sysconfig.get_config_var("EXT_SUFFIX"), ".so")

    def build_extensions(self) -> None:
        torch, cxx = find_torch(), find_cxx()
        cuda = find_cuda(cxx)
        probe_name = Path(self.get_ext_filename(PROBE)).name
        # An editable install gets a fresh temporary folder each time: build where the next one finds the objects.
        temp = ROOT / "build" / "editable" if self.editable_mode else Path(self.build_temp).resolve()
        temp.mkdir(parents=True, exist_ok=True)
        (temp / "build.ninja").write_text(ninja_file(torch, cxx, cuda, probe_name))
        jobs = os.environ.get("MAX_JOBS", str(len(os.sched_getaffinity(0))))
        wanted = [OPS, ONNXRUNTIME] if SANITIZE else [OPS, ONNXRUNTIME, PROBE, PLACE]
        files = {name: Path(self.get_ext_filename(name)).name for name in wanted}
        ninja = [sys.executable, "-m", "ninja", "-C", str(temp), "-j", jobs, *files.values()]
        done = subprocess.run(ninja, stdout=sys.stderr)
        if done.returncode != 0:
            refuse("compiling csrc/ failed; the compiler's messages are above")
        for name, file in files.items():
            target = Path(self.get_ext_fullpath(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f".{target.name}.new")
            shutil.copyfile(temp / file, fresh)
            fresh.replace(target)  # a process that has the old file mapped keeps it


if __name__ == "__main__":
    if int(setuptools.__version__.partition(".")[0]) < SETUPTOOLS_OLDEST:
        refuse(f"setuptools {setuptools.__version__} is too old; pip install -r requirements/build.txt")
    headers = sources("*.h", "*.cuh")
    setup(
        ext_modules=[
            Extension(OPS, ops_sources(cuda=True), depends=headers),
            Extension(ONNXRUNTIME, [*GEMM, *sources("onnxruntime/*.cpp")], depends=headers),
            Extension(PROBE, probe_sources(), depends=headers),
            Extension(PLACE, sources("place/*.cpp"), depends=headers),
        ],
        cmdclass={"build_ext": Build},
    )
