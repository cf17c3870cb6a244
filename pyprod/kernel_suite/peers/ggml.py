"""ggml's CPU kernels, as llama.cpp runs them: weights in blocks of 32 codes and a scale, rows quantized on the way.

Not among the pinned packages: its wheel is built from source, for minutes (``pip install ggml-python``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyprod.kernel_suite.peers import Prepared, Variant
from pyprod.kernel_suite.problems.linear import Linear
from pyprod.types import Unavailable

try:
    import ggml
except ModuleNotFoundError as error:  # the package has another name than the module
    raise Unavailable("ggml is not installed", "pip install ggml-python") from error

VARIANTS = {"q8_0": Variant(("linear", "linear_cold"), "int8", "weights and rows in Q8_0, bias added by a second op")}
#: Values that share a scale, and bytes that they take: 32 codes and a float16.
_BLOCK, _BLOCK_BYTES = 32, 34
#: Of a context that holds tensors' headers alone: five tensors and a graph.
_CONTEXT = 1 << 20


def available(variant: str) -> Unavailable | None:
    """None: without the package this file is not imported."""
    return None


def prepare(problem: Linear, variant: str, threads: int, workdir: Path) -> Prepared:
    """The weights in ggml's blocks.

    Raises:
        Unavailable: K is no multiple of 32.
    """
    if problem.k % _BLOCK:
        raise Unavailable(f"Q8_0 takes K in multiples of {_BLOCK}")
    weight = problem.weight.contiguous()
    packed = torch.empty(problem.n * problem.k // _BLOCK * _BLOCK_BYTES, dtype=torch.uint8)
    source = ctypes.cast(weight.data_ptr(), ctypes.POINTER(ctypes.c_float))
    ggml.ggml_quantize_chunk(ggml.GGML_TYPE_Q8_0, source, packed.data_ptr(), 0, problem.n, problem.k, None)
    return Ggml(problem, packed, threads)


class Ggml:
    """A graph for each number of rows; its tensors lie in torch's memory."""

    def __init__(self, problem: Linear, packed: Tensor, threads: int) -> None:
        self._n, self._k, self._threads = problem.n, problem.k, threads
        self._packed, self._bias = packed, problem.bias.contiguous()
        self._kept: list[Any] = []  # contexts and memory that graphs point to

    def bind(self, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """One run of the graph over these rows; it returns nothing, and `tensors` knows where the result is."""
        (x,) = inputs
        rows = len(x)
        context = ggml.ggml_init(ggml.ggml_init_params(mem_size=_CONTEXT, mem_buffer=None, no_alloc=True))
        product, self._out = torch.empty(rows, self._n), torch.empty(rows, self._n)
        weight = self._placed(ggml.ggml_new_tensor_2d(context, ggml.GGML_TYPE_Q8_0, self._k, self._n), self._packed)
        operand = self._placed(ggml.ggml_new_tensor_2d(context, ggml.GGML_TYPE_F32, self._k, rows), x)
        bias = self._placed(ggml.ggml_new_tensor_1d(context, ggml.GGML_TYPE_F32, self._n), self._bias)
        y = self._placed(ggml.ggml_mul_mat(context, weight, operand), product)
        y = self._placed(ggml.ggml_add(context, y, bias), self._out)
        graph = ggml.ggml_new_graph(context)
        ggml.ggml_build_forward_expand(graph, y)
        plan = ggml.ggml_graph_plan(graph, self._threads, None)
        work = torch.empty(max(1, plan.work_size), dtype=torch.uint8)
        plan.work_data = ctypes.cast(work.data_ptr(), ctypes.POINTER(ctypes.c_uint8))
        self._kept += [context, work, x]
        compute, reference = ggml.ggml_graph_compute, ctypes.pointer(plan)
        return lambda: compute(graph, reference)

    def _placed(self, tensor: Any, memory: Tensor) -> Any:
        tensor.contents.data = memory.data_ptr()
        self._kept.append(memory)
        return tensor

    def tensors(self, output: Any) -> tuple[Tensor, ...]:
        """The sum of product and bias."""
        return (self._out,)
