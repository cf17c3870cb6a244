"""The CUDA kernels built for the emulator by g++, and calls of them over torch tensors."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyprod.kernels import PackedWeight

CSRC = Path(__file__).parents[2] / "csrc"
#: -O1 compiles twice as fast as -O2, and the emulator's time goes into switching between threads.
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
FLAGS += ["-Wno-unknown-pragmas", "-DPYPROD_HAS_SM90A=1"]
ASYNCHRONY = ("eager", "late", "random")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
STORES = ("floats", "sums", "int8", "uint8")
FUNCTIONS = ("silu_mul", "gelu", "gelu_tanh")
ACTIVATIONS = (None, "relu", "gelu", "gelu_tanh", "silu")


class EmulatorSettings(ctypes.Structure):
    """csrc/emulator/library.cpp."""

    _fields_ = (
        ("asynchrony", ctypes.c_int),
        ("major", ctypes.c_int),
        ("processors", ctypes.c_int),
        ("seed", ctypes.c_uint64),
    )


class Epilogue(ctypes.Structure):
    """csrc/int8_gemm/epilogue.h."""

    _fields_ = (
        ("row_scale", ctypes.c_void_p),
        ("row_zero_point", ctypes.c_void_p),
        ("col_scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("activation", ctypes.c_int),
        ("residual", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_int64),
        ("type", ctypes.c_int),
        ("store", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("zero_point", ctypes.c_int32),
        ("out_inverse_scale", ctypes.c_float),
        ("out_zero_point", ctypes.c_int32),
    )


class CudaGemm(ctypes.Structure):
    """csrc/int8_gemm/cuda.h."""

    _fields_ = (
        ("a", ctypes.c_void_p),
        ("a_stride", ctypes.c_int64),
        ("packed", ctypes.c_void_p),
        ("m", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("epilogue", Epilogue),
        ("whole_fours", ctypes.c_bool),
    )


class ActivationRows(ctypes.Structure):
    """csrc/activation_quantize/cuda.h."""

    _fields_ = (
        ("function", ctypes.c_int),
        ("type", ctypes.c_int),
        ("m", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("up", ctypes.c_void_p),
        ("up_stride", ctypes.c_int64),
        ("q", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
    )


class NormRows(ctypes.Structure):
    """csrc/norm/cuda.h, and Norm of csrc/norm/path.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("k", ctypes.c_int64),
        ("center", ctypes.c_bool),
        ("eps", ctypes.c_float),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("multiplier", ctypes.c_void_p),
        ("stream", ctypes.c_bool),
        ("m", ctypes.c_int64),
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("residual", ctypes.c_void_p),
        ("residual_stride", ctypes.c_int64),
        ("sum", ctypes.c_void_p),
        ("normalized", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
    )


class Part(ctypes.Structure):
    """CudaPart of csrc/int8_attention/cuda.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("token_stride", ctypes.c_int64),
    )


class Mask(ctypes.Structure):
    """csrc/int8_attention/head.h."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int),
        ("item_size", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("query_stride", ctypes.c_int64),
        ("key_stride", ctypes.c_int64),
    )


class Attention(ctypes.Structure):
    """CudaAttention of csrc/int8_attention/cuda.h."""

    _fields_ = (
        ("q", Part),
        ("k", Part),
        ("v", Part),
        ("type", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "queries", "keys", "depth")),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_bool),
        ("mask", Mask),
        ("mask_batch_stride", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("key_codes", "key_scales", "value_codes", "value_scales", "top_scale")),
    )


def compile_library(folder: Path, csrc: Path = CSRC, only: Sequence[str] = (), reuse: Path | None = None) -> Path:
    """Build the library in `folder`; `only` these sources anew and in a hurry, the others' objects from `reuse`."""
    sources = [*sorted(csrc.rglob("*.cu")), *sorted((csrc / "emulator").glob("*.cpp"))]
    folder.mkdir(exist_ok=True)

    def compile_one(source: Path) -> Path:
        name = f"{source.relative_to(csrc)}.o".replace("/", "-")
        if reuse is not None and str(source.relative_to(csrc)) not in only:
            return reuse / name
        hurry = [] if reuse is None else ["-O0", "-w"]  # a bug may leave names unused
        command = ["g++", *FLAGS, *hurry, f"-I{csrc}", f"-I{CSRC}"]
        command += ["-x", "c++", "-c", str(source), "-o", str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return folder / name

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / "libemulator.so"
    subprocess.run(["g++", "-shared", *map(str, objects), "-o", str(library)], check=True)
    return library


class EmulatorError(RuntimeError):
    """What the emulated program did wrong."""


@dataclass(frozen=True)
class Emulator:
    """A GPU of compute capability `major`.0 that does background work as `asynchrony` says."""

    path: Path
    major: int
    asynchrony: str = "random"
    seed: int = 0
    processors: int = 3

    def gemm(self, a: Tensor, packed: PackedWeight) -> Tensor:
        """launch_gemm() of int8 a[M, K] to int32."""
        return self._multiply(a, packed, torch.int32, store=STORES.index("sums"))

    def linear(
        self,
        q: Tensor,
        packed: PackedWeight,
        scale: Tensor | float,
        col_scale: Tensor,
        bias: Tensor | None = None,
        activation: str | None = None,
        residual: Tensor | None = None,
        out_dtype: torch.dtype = torch.float32,
        **rest: Tensor | float,
    ) -> Tensor:
        """launch_gemm() of int8 or uint8 q[M, K] with an epilogue: `scale` of each row, or of all; `rest` of
        Epilogue."""
        rows = self.pad(q)[:, : q.shape[1]]
        integers = {torch.int8: "int8", torch.uint8: "uint8"}
        return self._multiply(
            rows, packed, out_dtype, **{"row_scale" if isinstance(scale, Tensor) else "scale": scale},
            col_scale=col_scale, bias=bias, activation=ACTIVATIONS.index(activation), residual=residual,
            type=FLOATS.index(out_dtype) if out_dtype in FLOATS else 0,
            store=STORES.index(integers.get(out_dtype, "floats")), **rest,
        )  # fmt: skip

    def _multiply(self, a: Tensor, packed: PackedWeight, out_dtype: torch.dtype, **epilogue: Any) -> Tensor:
        m, k = a.shape
        rows = torch.zeros(m, -(-k // 16) * 16, dtype=torch.int8)
        rows[:, :k] = a
        out = torch.full((m, packed.n), 0x55, dtype=torch.int8).to(out_dtype)  # what stays is seen
        tensors = [t for t in epilogue.values() if isinstance(t, Tensor)]
        whole = packed.n % 4 == 0 and all(t.data_ptr() % (4 * t.element_size()) == 0 for t in [out, *tensors])
        given = {name: t.data_ptr() if isinstance(t, Tensor) else t for name, t in epilogue.items()}
        end = Epilogue(out=out.data_ptr(), out_stride=packed.n, **given)
        call = CudaGemm(
            rows.data_ptr(), rows.stride(0), packed.data.data_ptr(), m, packed.n, k, epilogue=end, whole_fours=whole
        )
        self._run("emulate_gemm", ctypes.byref(call))
        return out

    def pad(self, x: Tensor) -> Tensor:
        """launch_pad() of bytes x[M, K] with any row stride: int8, rows of whole 16 bytes."""
        m, k = x.shape
        q = torch.full((m, -(-k // 16) * 16), 0x55, dtype=torch.int8)
        self._run(
            "emulate_pad", ctypes.c_int(x.dtype == torch.uint8), ctypes.c_void_p(x.data_ptr()),
            *map(ctypes.c_int64, (x.stride(0), m, k)), ctypes.c_void_p(q.data_ptr()), ctypes.c_int64(q.shape[1]),
        )  # fmt: skip
        return q

    def quantize(
        self, x: Tensor, padding: int = 0, multiplier: Tensor | None = None, zero_point: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """launch_quantize() of x[M, K] with any row stride: q[M, K + padding], scale[M]; zero_point[M] is filled."""
        m, k = x.shape
        q = torch.full((m, k + padding), 0x55, dtype=torch.int8)
        scale = torch.full((m,), torch.nan)
        sizes = [ctypes.c_int64(size) for size in (x.stride(0), m, k)]
        self._run(
            "emulate_quantize", FLOATS.index(x.dtype), ctypes.c_void_p(x.data_ptr()),
            ctypes.c_void_p(None if multiplier is None else multiplier.data_ptr()), *sizes,
            ctypes.c_void_p(q.data_ptr()), ctypes.c_int64(k + padding), ctypes.c_void_p(scale.data_ptr()),
            ctypes.c_void_p(None if zero_point is None else zero_point.data_ptr()),
        )  # fmt: skip
        return q, scale

    def activation(self, function: str, x: Tensor, up: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """An activation of x[M, K], quantized: q[M, K], scale[M]."""
        m, k = x.shape
        q, scale = torch.full((m, k), 0x55, dtype=torch.int8), torch.full((m,), torch.nan)
        call = ActivationRows(
            FUNCTIONS.index(function), FLOATS.index(x.dtype), m, k, *rows_of(x), *rows_of(up), q.data_ptr(),
            scale.data_ptr(),
        )  # fmt: skip
        self._run("emulate_activation", ctypes.byref(call))
        return q, scale

    def norm(
        self,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        *,
        center: bool,
        multiplier: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A norm of x[M, K] + residual, all that it can give: q, scale, normalized, sum."""
        m, k = x.shape
        q, scale = torch.full((m, k), 0x55, dtype=torch.int8), torch.full((m,), torch.nan)
        normalized, total = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
        vectors = (None if t is None else t.data_ptr() for t in (weight, bias, multiplier))
        call = NormRows(
            FLOATS.index(x.dtype), k, center, eps, *vectors,
            False, m, *rows_of(x), *rows_of(residual), total.data_ptr(), normalized.data_ptr(), q.data_ptr(),
            scale.data_ptr(),
        )  # fmt: skip
        self._run("emulate_norm", ctypes.byref(call))
        return q, scale, normalized, total

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
    ) -> Tensor:
        """Attention of q[B, H, S, D], k and v[B, KV, T, D], dense along D: [B, S, H * D]."""
        (b, h, s, d), (kv, t) = q.shape, k.shape[1:3]
        keys, depth = -(-t // 64) * 64, next(most for most in (32, 64, 128) if d <= most)
        out = torch.full((b, s, h * d), torch.nan).to(q.dtype)
        codes = [torch.full((b * kv * keys * depth,), 0x55, dtype=torch.int8) for _ in range(2)]
        numbers = [torch.full((b * kv * size,), torch.nan) for size in (keys, depth, 1)]
        seen = Mask()
        batch_stride = 0
        if mask is not None:
            wide = mask.expand(b, h, s, t)  # a stride of 0 where it is broadcast
            kind = 1 if mask.dtype == torch.bool else 2
            dtype = FLOATS.index(mask.dtype) if kind == 2 else 0
            batch_stride, *strides = wide.stride()
            seen = Mask(kind, wide.data_ptr(), dtype, mask.element_size(), *strides)

        def part(x: Tensor) -> Part:
            return Part(x.data_ptr(), *(stride * x.element_size() for stride in x.stride()[:3]))

        call = Attention(
            part(q), part(k), part(v), FLOATS.index(q.dtype), b, h, kv, s, t, d, d**-0.5 if scale is None else scale,
            causal, seen, batch_stride, out.data_ptr(), codes[0].data_ptr(), numbers[0].data_ptr(),
            codes[1].data_ptr(), numbers[1].data_ptr(), numbers[2].data_ptr(),
        )  # fmt: skip
        self._run("emulate_attention", ctypes.byref(call))
        return out

    def _run(self, name: str, *arguments: object) -> None:
        settings = EmulatorSettings(ASYNCHRONY.index(self.asynchrony), self.major, self.processors, self.seed)
        function = getattr(ctypes.CDLL(str(self.path)), name)
        function.restype = ctypes.c_char_p
        error = function(ctypes.byref(settings), *arguments)
        if error is not None:
            raise EmulatorError(error.decode())


def rows_of(x: Tensor | None) -> tuple[int | None, int]:
    """Where the rows of a matrix are, and their distance in bytes."""
    return (None, 0) if x is None else (x.data_ptr(), x.stride(0) * x.element_size())
