"""The machine and the software a number was taken with. What can't be read here is null, never a guess."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil

#: Instruction sets that decide how fast, and by which path, matrix products run.
FLAGS = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "torchao",
    "tokenizers",
    "safetensors",
    "gguf",
    "triton",
    "nvidia-ml-py",
    "pybind11",
    "ninja",
    "asv",
    "pytest-benchmark",
)

#: First line of each gives the version.
COMPILERS = ("g++", "clang++", "nvcc", "ld", "ninja")

ROOT = Path("/")
CHECKOUT = Path(__file__).parent.parent


def fingerprint(root: Path = ROOT) -> dict[str, Any]:
    """Everything about this machine that a number may depend on, as JSON values. No host or user name.

    Args:
        root: where /proc and /sys are looked for.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(root),
        "cpu": cpu(root),
        "limits": limits(root),
        "memory": {"total_bytes": psutil.virtual_memory().total, "huge_pages": huge_pages(root)},
        "gpus": gpus(),
        "system": {
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()),
            "architecture": platform.machine(),
            "virtualization": _virtualization(root),
            "aslr": _text(root / "proc/sys/kernel/randomize_va_space"),
            "load_average": _attempt(lambda: list(os.getloadavg())),
        },
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "packages": {name: _version(name) for name in PACKAGES},
        "compilers": {name: _first_line([name, "--version"]) for name in COMPILERS},
        "commit": commit(),
    }


def machine(root: Path = ROOT) -> str:
    """Short name for folders: the GPU's, or CPU brand and number of CPUs that this process may use: "amd-epyc-2cpu"."""
    if found := gpus():
        return _slug(re.sub(r"NVIDIA|Tesla|\d+GB|PCIe|SXM\d?|HBM\d\w?", "", str(found[0]["name"])))
    model = re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*|\d+-Core", "", str(cpu(root)["model"] or platform.machine()))
    return f"{_slug(model)}-{len(allowed_cpus())}cpu"


def cpus(threads: int, root: Path = ROOT) -> list[int]:
    """CPUs to pin `threads` threads to: from those allowed, one per physical core first, then their siblings.

    Fewer than `threads` when this process may not use as many.
    """
    seen: set[str] = set()
    first: list[int] = []
    siblings: list[int] = []
    for number in allowed_cpus():
        core = _text(root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") or str(number)
        (siblings if core in seen else first).append(number)
        seen.add(core)
    return (first + siblings)[:threads]


def allowed_cpus() -> list[int]:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu(root: Path = ROOT) -> dict[str, Any]:
    """Model, the flags of `FLAGS` it has, topology, caches and what governs its clock."""
    about = _cpuinfo(root)
    present = set((about.get("flags") or about.get("Features") or "").split())
    zero = root / "sys/devices/system/cpu"
    return {
        "model": about.get("model name") or platform.processor() or None,
        "vendor": about.get("vendor_id"),
        "family_model_stepping": [about.get(key) for key in ("cpu family", "model", "stepping")],
        "microcode": about.get("microcode"),
        "flags": [flag for flag in FLAGS if flag in present],
        "logical": psutil.cpu_count(),
        "physical": psutil.cpu_count(logical=False),
        "allowed": allowed_cpus(),
        "caches": _caches(zero / "cpu0/cache"),
        "governor": _text(zero / "cpu0/cpufreq/scaling_governor"),
        "max_khz": _text(zero / "cpu0/cpufreq/cpuinfo_max_freq"),
        "boost": _text(zero / "cpufreq/boost"),
        "no_turbo": _text(zero / "intel_pstate/no_turbo"),
        "smt": _text(zero / "smt/active"),
    }


def limits(root: Path = ROOT) -> dict[str, Any]:
    """What control groups (v2) allow, the tightest of this process's own and all above it.

    "max" is no limit; null where there is no such file.
    """
    top = root / "sys/fs/cgroup"
    own = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup") or "", re.MULTILINE)
    # In a container the path may be that of the host, which is not there: the top is then the container's own group.
    group = top / (own.group(1) if own else "")
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(top))]

    def tightest(name: str) -> str | None:
        return min(filter(None, (_text(group / name) for group in groups)), key=_amount, default=None)

    return {
        "cgroup_cpu_quota": tightest("cpu.max"),
        "cgroup_cpus": next(filter(None, (_text(group / "cpuset.cpus.effective") for group in groups)), None),
        "cgroup_memory": tightest("memory.max"),
    }


def huge_pages(root: Path = ROOT) -> str | None:
    """Mode of transparent huge pages: "always", "madvise" or "never"."""
    found = re.search(r"\[(\w+)\]", _text(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return found.group(1) if found else None


def gpus() -> list[dict[str, Any]]:
    """Every NVIDIA GPU that the driver shows: name, memory, driver, clocks (MHz), power limit (W), ECC, MIG."""
    with _devices() as (nvml, handles):
        return [_gpu(nvml, handle) for handle in handles]


def gpu_memory(pid: int) -> int | None:
    """Bytes of device memory that a process holds on all GPUs, whatever runtime took them; None if NVML can't say."""
    with _devices() as (nvml, handles):
        each = (_attempt(partial(nvml.nvmlDeviceGetComputeRunningProcesses, handle)) for handle in handles)
        running = [process for processes in each for process in processes or ()]
    held = [p.usedGpuMemory for p in running if p.pid == pid and p.usedGpuMemory is not None]
    return sum(held) if held else None


def commit(checkout: Path = CHECKOUT) -> dict[str, Any]:
    """Revision of pyprod itself and whether the checkout differs from it; nulls where it is installed without one."""
    if not (checkout / ".git").exists():
        return {"revision": None, "dirty": None}
    git = ["git", "-C", str(checkout)]
    status = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    return {"revision": _first_line([*git, "rev-parse", "HEAD"]), "dirty": None if status is None else bool(status)}


def initialized_nvml() -> Any:
    """The module ``pynvml``, ready to be asked; None where there is no driver. Shut it down as often as initialized."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml
    except Exception:  # no package, no driver, no device: NVML has an exception type for each
        return None


@contextlib.contextmanager
def _devices() -> Iterator[tuple[Any, list[Any]]]:
    """NVML and a handle of each GPU; no handle where there is no driver."""
    if (nvml := initialized_nvml()) is None:
        yield None, []
        return
    try:
        yield nvml, [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any) -> dict[str, Any]:
    def read(name: str, *arguments: Any) -> Any:
        return _attempt(lambda: getattr(nvml, name)(handle, *arguments))

    memory, power, mig = map(
        read, ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetMigMode")
    )
    return {
        "name": read("nvmlDeviceGetName"),
        "memory_bytes": memory.total if memory else None,
        "compute_capability": read("nvmlDeviceGetCudaComputeCapability"),
        "driver": _attempt(nvml.nvmlSystemGetDriverVersion),
        "max_sm_mhz": read("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "sm_mhz": read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "memory_mhz": read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "power_limit_w": power / 1000 if power else None,
        "ecc": read("nvmlDeviceGetEccMode"),
        "mig": mig[0] if mig else None,
    }


def _cpuinfo(root: Path) -> Mapping[str, str]:
    block = (_text(root / "proc/cpuinfo") or "").partition("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches(folder: Path) -> list[dict[str, Any]]:
    found = sorted(folder.glob("index*")) if folder.is_dir() else []
    return [{key: _text(index / key) for key in ("level", "type", "size", "shared_cpu_list")} for index in found]


def _virtualization(root: Path) -> str | None:
    if "hypervisor" in (_cpuinfo(root).get("flags") or "").split():
        return _text(root / "sys/hypervisor/type") or _text(root / "sys/class/dmi/id/sys_vendor") or "hypervisor"
    return None


def _amount(limit: str) -> float:
    """Bytes of "1073741824", CPUs of "150000 100000" (quota and period, µs), infinity of "max"."""
    number, *period = limit.split()
    return math.inf if number == "max" else float(number) / float(period[0] if period else 1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(command: list[str]) -> str | None:
    """First line that names a version, or the first at all: nvcc introduces itself before it says its own."""
    lines = (_output(command) or "").splitlines()
    return next((line for line in lines if "release" in line), lines[0] if lines else None)


def _output(command: list[str]) -> str | None:
    if not shutil.which(command[0]):
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _attempt(read: Callable[[], Any]) -> Any:
    """What `read` returns, or None when this machine can't tell."""
    try:
        return read()
    except Exception:  # NVML and os raise types of their own for "not supported here"
        return None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or sys.platform
