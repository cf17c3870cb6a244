"""What runs an ONNX file here, each runtime as a function from tensors to a tensor."""

from __future__ import annotations

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from pyprod.export.order import Reader

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def onnxruntime(model: Path | bytes, threads: int, level: str = "all", library: Path | None = None) -> Reader:
    """ONNX Runtime's CPU provider at a level of graph optimization, with a library of custom operators."""
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, _options(threads, level, library), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def read(inputs: tuple[Tensor, ...]) -> Tensor:
        feeds = {name: t.contiguous().numpy() for name, t in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return read


def optimized_nodes(path: Path, threads: int, library: Path | None = None) -> dict[str, Mapping[str, int]]:
    """Node types that ONNX Runtime is left with, by level of optimization; what the file itself has as "file".

    Levels at which it does not take the file are left out: the comparison says why.
    """
    found: dict[str, Mapping[str, int]] = {"file": _count(path)}
    for level in LEVELS:
        with TemporaryDirectory() as folder:
            options = _options(threads, level, library)
            options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
            with contextlib.suppress(Exception):  # onnxruntime's errors have no common base
                ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                found[level] = _count(Path(options.optimized_model_filepath))
    return found


def openvino(path: Path, threads: int) -> Reader:
    """OpenVINO's CPU plugin, held to float32."""
    import openvino as ov

    from pyprod.openvino_core import core

    config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": ov.Type.f32}
    model = core().compile_model(path, "CPU", config)

    def read(inputs: tuple[Tensor, ...]) -> Tensor:
        outputs = model([t.contiguous().numpy() for t in inputs])
        return torch.from_numpy(np.array(outputs[0]))

    return read


def readers(path: Path, threads: int) -> dict[str, Reader]:
    """ONNX Runtime with and without its optimizations, and OpenVINO."""
    found = onnxruntime_readers(path, threads)
    if importlib.util.find_spec("openvino") is not None:
        found["openvino"] = _opened(lambda: openvino(path, threads))
    return found


def onnxruntime_readers(path: Path, threads: int, library: Path | None = None) -> dict[str, Reader]:
    """ONNX Runtime with and without its optimizations."""
    return {
        "onnxruntime": _opened(lambda: onnxruntime(path, threads, "all", library)),
        "onnxruntime (no optimization)": _opened(lambda: onnxruntime(path, threads, "none", library)),
    }


def _opened(opener: Callable[[], Reader]) -> Reader:
    """The reader; where a runtime does not take the file, one that says why at each call: that is a result, too."""
    try:
        return opener()
    except Exception as error:
        reason = error

    def refuse(inputs: tuple[Tensor, ...]) -> Tensor:
        raise reason

    return refuse


def _options(threads: int, level: str, library: Path | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it can't run it raises
    options.graph_optimization_level = LEVELS[level]
    return options


def _count(path: Path) -> Mapping[str, int]:
    graph = onnx.load(path, load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())
