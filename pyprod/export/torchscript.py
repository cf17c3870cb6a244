"""TorchScript: runs without Python. Deprecated in PyTorch since 2.9, and still what many fleets run.

Scripted where torch.jit.script takes the model's code, which keeps what forward decides; traced where it does not.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pyprod.export.order import Order, Reader, Written
from pyprod.export.program import all_axes
from pyprod.export.quiet import quiet
from pyprod.types import Unavailable

SUFFIX = ".pt"
NUMERICS = "float32"


def write(order: Order, path: Path) -> Written:
    """Write `path`; a trace keeps what forward decided for the example, so open sizes are checked and not promised."""
    extra, facts = dict(order.metadata), {"by": "torch.jit.script"}
    try:
        save(order.model, order.example, path, scripted=True, extra=extra)
    except Unavailable as why:
        facts = {"by": "torch.jit.trace", "not scripted": str(why)}
        save(order.model, order.example, path, extra=extra)
    return Written(all_axes(order.example, order.dimensions), facts=facts)


def readers(order: Order, path: Path) -> dict[str, Reader]:
    """The file, loaded without the model's Python code; as it is and frozen."""
    with quiet():
        modules = {"torch.jit": load(path, "cpu"), "torch.jit, frozen": torch.jit.freeze(load(path, "cpu"))}

    def reader(module: torch.jit.ScriptModule) -> Reader:
        def read(inputs: tuple[Tensor, ...]) -> Tensor:
            with torch.no_grad():
                output: Tensor = module(*inputs)
            return output

        return read

    return {name: reader(module) for name, module in modules.items()}


def save(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    frozen: bool = False,
    scripted: bool = False,
    extra: dict[str, str] | None = None,
) -> None:
    """Trace the model on `example`, or script its code, and save it at `path`.

    Args:
        model: module in eval mode; what its forward decides in Python, a trace decides once, for this example.
        example: inputs of the shapes that will run.
        path: the .pt file to write, atomically.
        frozen: make weights constants and fold what then is constant.
        scripted: compile the code of forward instead.
        extra: files to put beside the code, by name: `torch.jit.load(..., _extra_files=)` reads them.

    Raises:
        Unavailable: torch.jit.script can't take the model's code.
    """
    with quiet(), torch.no_grad():
        made = _scripted(model) if scripted else torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]
        if frozen:
            made = torch.jit.freeze(made.eval())
        temporary = path.with_name(f".{path.name}")
        torch.jit.save(made, str(temporary), _extra_files=extra or {})
    temporary.replace(path)


def _scripted(model: nn.Module) -> torch.jit.ScriptModule:
    try:
        made: torch.jit.ScriptModule = torch.jit.script(model)
    except Exception as error:  # its compiler's errors have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unavailable(f"torch.jit.script can't take the model: {reason}", "use the trace") from error
    return made


def load(path: Path, device: str) -> torch.jit.ScriptModule:
    """The module of a file that `save` wrote, its tensors on `device`."""
    with quiet():
        module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    return module
