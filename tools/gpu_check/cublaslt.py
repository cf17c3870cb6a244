"""cuBLASLt's INT8 matrix product with every algorithm that it offers: the honest peer. By ctypes, on the library that
PyTorch has loaded; constants are those of cublasLt.h and library_types.h."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyprod.types import PyprodError

COMPUTE_32I, INT8, INT32, TRANSPOSED = 72, 3, 10, 1
DESCRIPTION_TRANSA, PREFERENCE_WORKSPACE = 3, 1
WORKSPACE = 64 << 20
MOST = 64  # algorithms asked for


class Algorithm(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


def calls(a: Tensor, w: Tensor) -> list[Callable[[], Tensor]]:
    """``a[M, K] @ w[N, K].T`` to int32 by each algorithm that runs, best guess first.

    Raises:
        PyprodError: the library is missing, or takes no such product: m, n or k is no multiple of 4, say.
    """
    product = _Product(a, w)
    runs = [product.by(algorithm) for algorithm in product.algorithms()]
    return [run for run in runs if _runs(run)]


def _runs(call: Callable[[], Tensor]) -> bool:
    try:
        call()
    except PyprodError:
        return False
    return True


class _Product:
    """In the library's column-major terms out.T[N, M] = w[N, K] a.T[K, M], of which `w` is transposed as it lies."""

    def __init__(self, a: Tensor, w: Tensor) -> None:
        self._a, self._w = a, w
        (m, k), n = a.shape, w.shape[0]
        self._out = torch.empty(m, n, dtype=torch.int32, device=a.device)
        self._workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=a.device)
        try:
            self._library = ctypes.CDLL(f"libcublasLt.so.{(torch.version.cuda or '13').partition('.')[0]}")
        except OSError as error:
            raise PyprodError(f"cuBLASLt: {error}") from error
        self._handle = self._made("cublasLtCreate")
        self._description = self._made("cublasLtMatmulDescCreate", COMPUTE_32I, INT32)
        transposed = ctypes.c_int32(TRANSPOSED)
        self._do("cublasLtMatmulDescSetAttribute", self._description, DESCRIPTION_TRANSA, ctypes.byref(transposed), 4)
        layouts = [(INT8, k, n, k), (INT8, k, m, k), (INT32, n, m, n)]
        self._layouts = [self._layout(*layout) for layout in layouts]

    def algorithms(self) -> list[Algorithm]:
        """What the library's heuristics offer for this product."""
        preference, size = self._made("cublasLtMatmulPreferenceCreate"), ctypes.c_size_t(WORKSPACE)
        self._do(
            "cublasLtMatmulPreferenceSetAttribute", preference, PREFERENCE_WORKSPACE, ctypes.byref(size), 8
        )  # fmt: skip
        found, count = (Algorithm * MOST)(), ctypes.c_int()
        w, a, out = self._layouts
        self._do(
            "cublasLtMatmulAlgoGetHeuristic", self._handle, self._description, w, a, out, out, preference, MOST, found,
            ctypes.byref(count),
        )  # fmt: skip
        return [found[i] for i in range(count.value) if found[i].state == 0]

    def by(self, algorithm: Algorithm) -> Callable[[], Tensor]:
        """The product by one of them, on the current stream."""
        one, zero = ctypes.c_int32(1), ctypes.c_int32(0)
        w, a, out = self._layouts

        def call() -> Tensor:
            self._do(
                "cublasLtMatmul", self._handle, self._description, ctypes.byref(one), _pointer(self._w), w,
                _pointer(self._a), a, ctypes.byref(zero), _pointer(self._out), out, _pointer(self._out), out,
                ctypes.byref(algorithm.algorithm), _pointer(self._workspace), ctypes.c_size_t(WORKSPACE),
                ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
            )  # fmt: skip
            return self._out

        return call

    def _layout(self, dtype: int, rows: int, columns: int, stride: int) -> ctypes.c_void_p:
        sizes = ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(stride)
        return self._made("cublasLtMatrixLayoutCreate", dtype, *sizes)

    def _made(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._do(function, ctypes.byref(made), *arguments)
        return made

    def _do(self, function: str, *arguments: Any) -> None:
        if status := getattr(self._library, function)(*arguments):
            raise PyprodError(f"{function} failed with status {status}")


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
