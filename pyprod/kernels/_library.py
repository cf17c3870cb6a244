"""The compiled library: where it is, and a clear word when it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from pyprod.types import Unavailable

LIBRARY = Path(__file__).resolve().parent.parent / "libpyprod.so"

_Function = TypeVar("_Function", bound=Callable[..., Any])


def load() -> None:
    """Register ``torch.ops.pyprod`` from the library that setup.py built.

    Raises:
        Unavailable: it is not built, does not load, or PYPROD_ISA asks for what this CPU lacks.
    """
    if not LIBRARY.is_file():
        raise Unavailable("pyprod's extension is not built", "run: make build")
    try:
        torch.ops.load_library(str(LIBRARY))  # type: ignore[no-untyped-call]
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(f"pyprod's extension does not load: {reason}", "run: make build") from error
    isa()


def isa() -> str:
    """The instruction set that the CPU kernels use: "amx", "avx512_vnni", "avx_vnni", "avx2" or
    "portable".

    The best that this CPU has, or the one that the environment variable PYPROD_ISA named when the process first asked.

    Raises:
        Unavailable: PYPROD_ISA names no instruction set, or one that this CPU lacks.
    """
    try:
        return str(torch.ops.pyprod.isa())
    except RuntimeError as error:
        raise Unavailable(str(error), "unset PYPROD_ISA") from error


def fake(op: str) -> Callable[[_Function], _Function]:
    """Register the decorated function as the shape function of ``torch.ops.pyprod.<op>``, for tracing."""
    return cast(Callable[[_Function], _Function], torch.library.register_fake(f"pyprod::{op}"))


def refuse_gradient(op: str, *tensors: torch.Tensor | None) -> None:
    """Raise when autograd would have to differentiate `op`; traced code is not asked (its inputs are fakes)."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    if any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError(f"{op} has no gradient: call it under torch.inference_mode() or torch.no_grad()")
