"""ONNX files: converted from a program, checked, written whole, read back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx
import torch
from google.protobuf.message import DecodeError

from pyprod.export.program import Traced
from pyprod.export.quiet import quiet
from pyprod.types import PyprodError

#: onnxruntime's quantizer, OpenVINO and NNCF all read it; 23 adds a fused Attention that none of them quantizes.
OPSET = 20

#: What the exporter writes without converting.
OPSETS = range(18, 26)

#: A protobuf message can't exceed 2 GiB; the graph itself is given 16 MiB of it.
WEIGHTS_LIMIT = 2**31 - 2**24


class Converted(NamedTuple):
    """A file to be, and the program whose nodes its values are named after."""

    model: onnx.ModelProto
    program: torch.export.ExportedProgram


def convert(traced: Traced, opset: int = OPSET) -> Converted:
    """A program in ONNX's operators; its open dimensions carry their names, so that a runtime can be told a value.

    Raises:
        PyprodError: the opset is not one that the exporter writes, or an operator has no ONNX counterpart.
    """
    if opset not in OPSETS:
        raise PyprodError(f"opset {opset}: the exporter writes {OPSETS[0]} to {OPSETS[-1]}")
    names = traced.axes if any(traced.axes) else None
    try:
        with quiet(), _no_slice_split():
            made = torch.onnx.export(
                traced.program, (), dynamo=True, opset_version=opset, verbose=False, dynamic_shapes=names
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise PyprodError(f"the model can't be written in ONNX: {_cause(error)}") from error
    assert made is not None
    assert made.exported_program is not None
    return Converted(made.model_proto, made.exported_program)


@contextmanager
def _no_slice_split() -> Iterator[None]:
    """Without onnxscript's rule that joins two slices into a Split. It walks the whole graph anew at each node, nearly
    half of an export's time (decoder, 4,000 nodes: 34 -> 18.5 s), and none of our workloads has such slices."""
    from onnxscript.rewriter.rules.common import slice_split_rule  # here, since it takes half a second

    slice_split_rule.try_rewrite = lambda *_, **__: None
    try:
        yield
    finally:
        vars(slice_split_rule).pop("try_rewrite", None)  # another thread's export may have been first


def save(model: onnx.ModelProto, path: Path, external_data: bool | None = None) -> None:
    """Write the file atomically, checked by onnx.checker with strict shape inference.

    Args:
        external_data: weights in a file of their own, ``PATH.data``; None: where one file can't hold them.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    apart = size > WEIGHTS_LIMIT if external_data is None else external_data
    folder = path.with_name(f".{os.getpid()}-{path.name}")  # a folder, as the graph names the other file
    folder.mkdir()
    try:
        onnx.save(model, folder / path.name, save_as_external_data=apart, location=f"{path.name}.data")
        onnx.checker.check_model(folder / path.name, full_check=True)
        for part in sorted(folder.iterdir(), reverse=True):  # the graph last: it says that all is there
            part.chmod(0o644)  # weights of their own are made readable by their owner only
            part.replace(path.with_name(part.name))
    finally:
        shutil.rmtree(folder)


def load(path: Path) -> onnx.ModelProto:
    """A file that was written before, weights included.

    Raises:
        PyprodError: it can't be read: it is missing, cut short, or no ONNX file.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(path)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise PyprodError(f"{path} is no whole ONNX file: {str(error).strip().splitlines()[0]}") from error
    return model


def pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The file without nodes and constants that nothing reads any more; changed in place."""
    graph, outputs = model.graph, {value.name for value in model.graph.output}
    nodes = list(graph.node)
    while True:
        read = outputs | {name for node in nodes for name in node.input}
        left = [node for node in nodes if read & set(node.output)]
        if len(left) == len(nodes):
            break
        nodes = left
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
    return model


def label(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Put `metadata` into the file, where every runtime shows it."""
    onnx.helper.set_model_props(model, dict(metadata))


def _cause(error: BaseException) -> str:
    """The innermost reason; the exporter wraps it in advice of twenty lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
