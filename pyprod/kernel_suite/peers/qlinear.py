"""oneDNN's quantized linear, what torch.compile lowers models to that PT2E quantized for x86 (X86InductorQuantizer)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch._inductor.config
from torch import Tensor, nn

from pyprod.kernel_suite.peers import Prepared, Variant
from pyprod.kernel_suite.peers.compile import Compiled
from pyprod.kernel_suite.problems import ROWS
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

VARIANTS = {"inductor": Variant(("linear",), "int8", "rows static per tensor, weights per channel, torch.compile")}


def available(variant: str) -> Unavailable | None:
    """Why it can't run here, or None."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Unavailable("this PyTorch has no oneDNN")
    return None


def prepare(problem: Linear, variant: str, threads: int, workdir: Path) -> Prepared:
    """Rows quantized by generated code, then the operator with packed weights, in one compiled function.

    The graph is written down as the lowering leaves it: the quantizer itself would take seconds per layer to get there.
    """
    torch._inductor.config.freezing = True  # of this process, the peer's own: the lowering takes constant weights only
    return Compiled(_Layer(problem).eval())


class _Layer(nn.Module):
    def __init__(self, problem: Linear) -> None:
        super().__init__()
        low, high = (float(bound) for bound in problem.inputs(max(ROWS))[0].aminmax())
        self.scale = (high - low) / 255
        self.zero_point = round(-low / self.scale)
        self.register_buffer("packed", torch.ops.onednn.qlinear_prepack(problem.w_q, None))
        self.register_buffer("w_scale", problem.w_scale)
        self.register_buffer("w_zero_point", torch.zeros(problem.n, dtype=torch.int32))
        self.register_buffer("bias", problem.bias)

    def forward(self, x: Tensor) -> Tensor:
        q = (torch.round(x * (1 / self.scale)) + self.zero_point).clamp(0, 255).to(torch.uint8)
        rows, weights = (q, self.scale, self.zero_point), (self.packed, self.w_scale, self.w_zero_point)
        y: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            *rows, *weights, self.bias, 1.0, 0, torch.float32, "none", [], ""
        )  # float32 out, without activation
        return y
