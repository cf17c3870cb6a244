"""How many faults of an ONNX file the step-by-step comparison finds, and whether it says where they are.

Faults are put one at a time into files that are right, at random places: into the graph, never into the check. Beside
the comparison the two that are usual are asked: outputs alone, to 1e-5 and to 1e-3.

    python -m tools.export_faults results/export/NAME --faults 100
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from pyprod import environment, workloads
from pyprod.export import onnx_file, onnx_runtimes, parity
from pyprod.export.ledger import ledger, program_node
from pyprod.export.program import trace
from pyprod.measure.store import write_atomically
from pyprod.progress import Bar

WORKLOADS = ("encoder", "sentiment", "fashion_mnist", "digits", "tabular")
FAULTS, ENVIRONMENT = "faults.json", "environment.json"

#: From a file and a random generator to what was done, and the step of the program that it was done to.
Fault = Callable[[onnx.ModelProto, random.Random], tuple[str, str]]


class NoPlace(LookupError):
    """The file has nothing that this fault can be put into."""


def wrong_weight(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """One number of a weight is off by a tenth of the largest."""
    held = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 8}
    readers = [(node, name) for node in model.graph.node for name in node.input if name in held]
    node, name = _choose(readers, chance)
    array = numpy_helper.to_array(held[name]).copy()
    place = chance.randrange(array.size)
    array.reshape(-1)[place] += 0.1 * np.abs(array).max()
    held[name].CopyFrom(numpy_helper.from_array(array, name))
    return f"{name}[{place}]", program_node(node)


def swapped_axis(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """A transposition, softmax or concatenation along another axis."""
    node = _choose([n for n in model.graph.node if n.op_type in ("Transpose", "Softmax", "Flatten")], chance)
    attribute = next((a for a in node.attribute if a.name in ("perm", "axis")), None)
    if attribute is None:
        node.attribute.append(onnx.helper.make_attribute("axis", 1))
    elif attribute.name == "perm":
        first, second = chance.sample(range(len(attribute.ints)), 2)
        perm = list(attribute.ints)
        perm[first], perm[second] = perm[second], perm[first]
        attribute.ints[:] = perm
    else:
        attribute.i = 1 if attribute.i in (-1, 3) else -1
    return f"{node.op_type} {node.name}", program_node(node)


def changed_epsilon(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """A normalization adds a thousand times more to the variance."""
    nodes = [n for n in model.graph.node if n.op_type == "LayerNormalization"]
    node = _choose(nodes, chance)
    attribute = next(a for a in node.attribute if a.name == "epsilon")
    attribute.f *= 1000
    return f"{node.name} to {attribute.f:g}", program_node(node)


def dropped_mask(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """An attention sees the padding."""
    softmax = {n.input[0] for n in model.graph.node if n.op_type == "Softmax"}
    node = _choose([n for n in model.graph.node if n.op_type == "Add" and n.output[0] in softmax], chance)
    return _identity(node), program_node(node)


def dropped_term(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """A bias or a residual is not added."""
    nodes = [n for n in model.graph.node if n.op_type in ("Add", "Gemm", "Conv") and len(n.input) > 1]
    node = _choose([n for n in nodes if n.op_type == "Add" or (len(n.input) > 2 and n.input[2])], chance)
    if node.op_type == "Add":
        return _identity(node), program_node(node)
    del node.input[2]
    return f"bias of {node.name}", program_node(node)


def other_function(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """An activation is another, near to it."""
    node = _choose([n for n in model.graph.node if n.op_type in ("Relu", "Gelu")], chance)
    if node.op_type == "Relu":
        node.op_type = "LeakyRelu"
    else:
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("approximate", "tanh"))
    return node.name, program_node(node)


def shifted_window(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """A convolution pads on the other side."""
    nodes = [
        n for n in model.graph.node if n.op_type == "Conv" and any(sum(a.ints) for a in n.attribute if a.name == "pads")
    ]
    node = _choose(nodes, chance)
    pads = next(a for a in node.attribute if a.name == "pads")
    pads.ints[:] = [pads.ints[0] + 1, pads.ints[1], pads.ints[2] - 1, pads.ints[3]]
    return f"pads of {node.name}", program_node(node)


def wrong_scale(model: onnx.ModelProto, chance: random.Random) -> tuple[str, str]:
    """A factor inside an attention is off by a percent."""
    scalars = {
        t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) == 1
    }
    node = _choose([n for n in model.graph.node if n.op_type == "Mul" and n.input[1] in scalars], chance)
    name = f"{node.input[1]}_off"
    model.graph.initializer.append(
        numpy_helper.from_array((numpy_helper.to_array(scalars[node.input[1]]) * 1.01).astype(np.float32), name)
    )
    node.input[1] = name
    return f"factor of {node.name}", program_node(node)


KINDS: tuple[Fault, ...] = (
    wrong_weight,
    swapped_axis,
    changed_epsilon,
    dropped_mask,
    dropped_term,
    other_function,
    shifted_window,
    wrong_scale,
)


def main() -> None:
    """Put in the faults, ask, write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the record")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workloads", nargs="*", default=WORKLOADS)
    options = parser.parse_args()
    with Bar("faults") as bar:
        bar.planned(options.faults)
        found = list(study(options.workloads, options.faults, options.seed, bar.step))
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / ENVIRONMENT, json.dumps(environment.fingerprint(), indent=1) + "\n")
    write_atomically(options.out / FAULTS, json.dumps({"seed": options.seed, "faults": found}, indent=1) + "\n")
    for key in ("caught", "located"):
        print(f"{key}: {sum(row[key] for row in found)} of {len(found)}")


def study(names: list[str], count: int, seed: int, progress: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """One row per fault; workloads and kinds take turns, places are drawn."""
    chance = random.Random(seed)
    files = {name: _right(name) for name in names}
    done = turn = 0
    while done < count:
        name, kind = names[turn % len(names)], KINDS[(turn // len(names)) % len(KINDS)]
        turn += 1
        workload, program, model = files[name]
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        try:
            what, step = kind(broken, chance)
        except NoPlace:
            continue
        done += 1
        progress(f"{name}: {kind.__name__}")
        yield {
            "workload": name,
            "fault": kind.__name__,
            "what": what,
            "step": step,
            **_ask(workload, program, broken, step),
        }


def _right(name: str) -> tuple[workloads.Workload, torch.export.ExportedProgram, onnx.ModelProto]:
    """The workload, its program and its file, which must be without fault itself."""
    workload = workloads.load(name)
    made = onnx_file.convert(trace(workload.model(), workload.example(2), workload.dimensions))
    assert not ledger(made.program, made.model, parity.mixed(workload.inputs, open_batch=True)).faults
    return workload, made.program, made.model


def _ask(
    workload: workloads.Workload, program: torch.export.ExportedProgram, broken: onnx.ModelProto, step: str
) -> dict[str, Any]:
    """What the steps say, and what the outputs of 16 real rows alone would have said."""
    faults = ledger(program, broken, parity.mixed(workload.inputs, open_batch=True)).faults
    rows, model = [_rows(workload, 16)], workload.model()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "broken.onnx"
        onnx.save(broken, path)
        try:
            readers = {"onnxruntime": onnx_runtimes.onnxruntime(path, 1)}
            wants = parity.answers(model, rows)
            error = parity.compare(wants, readers, rows, "real", parity.norm(wants))[0].error
        except Exception:  # ONNX Runtime refuses the graph
            error = float("inf")
    return {
        "caught": bool(faults),
        "located": bool(faults) and faults[0].name == step,
        "named": [fault.name for fault in faults],
        "output_error": error if error < float("inf") else "inf",
    }


def _rows(workload: workloads.Workload, count: int) -> tuple[torch.Tensor, ...]:
    return tuple(t[:count] for t in workload.inputs)


def _choose(places: list[Any], chance: random.Random) -> Any:
    if not places:
        raise NoPlace
    return chance.choice(places)


def _identity(node: onnx.NodeProto) -> str:
    """Let the node pass on its first input."""
    node.op_type = "Identity"
    del node.input[1:]
    return f"second input of {node.name}"


if __name__ == "__main__":
    main()
