"""What every backend shares: the check of bound inputs, the Runner over a PyTorch callable, sizes on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from pyprod.backends import Request, Runner

#: A note: measured, and what hides an upstream fault from whoever watches outputs for NaN.
RELU_HIDES_NAN = "ReLU gives 0 for NaN (oneDNN)"


class Signature:
    """Shapes and dtypes a model was prepared for.

    Several backends compile for fixed shapes and read out of bounds on others, so that all of them refuse alike.
    """

    def __init__(self, example: tuple[Tensor, ...]) -> None:
        self._inputs = [(tuple(t.shape), t.dtype) for t in example]

    def check(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inputs, contiguous (the same tensors where they are so already).

        Raises:
            ValueError: their number, a shape or a dtype differs from the example's.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"the model takes {len(self._inputs)} inputs, got {len(inputs)}")
        for position, (tensor, want) in enumerate(zip(inputs, self._inputs, strict=True)):
            got = (tuple(tensor.shape), tensor.dtype)
            if got != want:
                raise ValueError(f"input {position}: prepared for {want[0]} {want[1]}, got {got[0]} {got[1]}")
        return tuple(t.contiguous() for t in inputs)


class TorchRunner(Runner):
    """A callable over tensors on the request's device, run under inference mode; the result is a float32 tensor."""

    def __init__(
        self, function: Callable[..., Tensor], request: Request, artifact_bytes: int, notes: tuple[str, ...] = ()
    ) -> None:
        self._function = function
        self._device = request.device
        self._signature = Signature(request.example)
        self.artifact_bytes = artifact_bytes
        self.notes = notes

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        placed = tuple(t.to(self._device) for t in self._signature.check(inputs))
        function, inference_mode = self._function, torch.inference_mode

        def call() -> object:
            with inference_mode():
                return function(*placed)

        if self._device == "cpu":
            return call
        synchronize = torch.cuda.synchronize

        def synchronized() -> object:
            output = call()
            synchronize()
            return output

        return synchronized

    def tensor(self, output: object) -> Tensor:
        assert isinstance(output, Tensor), f"a model must return one tensor, this one returned {type(output)}"
        return output.to("cpu", torch.float32)


class Cast(nn.Module):
    """A model in `dtype`: floating-point inputs are cast to it, the output is cast back to float32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model.to(dtype)
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        cast = (t.to(self.dtype) if t.is_floating_point() else t for t in inputs)
        output: Tensor = self.model(*cast)
        return output.float()


def weights_bytes(model: nn.Module, workdir: Path) -> int:
    """Size of the model's weights as a safetensors file, shared tensors once; the file is left in `workdir`."""
    path = workdir / "model.safetensors"
    save_model(model, str(path))
    return path.stat().st_size


def pickled_bytes(model: nn.Module, workdir: Path) -> int:
    """Size of the model's state as torch.save writes it, for what safetensors can't hold: packed or wrapped weights."""
    path = workdir / "model.pt"
    torch.save(model.state_dict(), path)
    return path.stat().st_size


def calibration_batches(request: Request, batch: int) -> Iterator[tuple[Tensor, ...]]:
    """The calibration rows in order, `batch` at a time; the last batch is filled up from the first rows."""
    count = request.calibration[0].shape[0]
    for start in range(0, count, batch):
        rows = torch.arange(start, start + batch) % count
        yield tuple(t[rows] for t in request.calibration)


def has_vnni() -> bool:
    """Whether the CPU adds products of full 8-bit integers exactly; others saturate at 16 bits on x86."""
    return bool(cpu_flags() & {"avx512_vnni", "avx_vnni"})


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the first CPU as Linux names them ("avx512_vnni"); empty where /proc does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())
