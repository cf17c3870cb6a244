"""Whether there is a GPU, and whether PyTorch can use it."""

from __future__ import annotations

from pathlib import Path

import torch

from pyprod.types import Unavailable


def torch_device(device: str) -> Unavailable | None:
    """Why PyTorch can't use `device` here, or None."""
    if device == "cpu":
        return None
    if device != "cuda":
        return Unavailable(f"no device {device!r}", "use cpu or cuda")
    if not nvidia_gpu():
        return Unavailable("no NVIDIA GPU")
    if torch.version.cuda is None:
        return Unavailable(f"torch {torch.__version__} is a CPU build", "install a CUDA build of the same version")
    if not torch.cuda.is_available():
        return Unavailable("PyTorch can't initialize CUDA", "see python -c 'import torch; torch.cuda.init()'")
    return None


def nvidia_gpu() -> bool:
    """Whether the NVIDIA driver shows a GPU, whatever any library was built for."""
    return Path("/dev/nvidia0").exists() or torch.cuda.is_available()


def uuid() -> str:
    """Of the current CUDA device, as NVML knows it."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
