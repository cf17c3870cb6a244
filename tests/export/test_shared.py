"""The shared ONNX file: exported once whoever asks, keyed by all that it depends on."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pyprod.export.shared import Exported, cached, digest


class Small(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


class FixedBatch(nn.Module):
    """Decides in Python by its batch, as models that need a static one do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.shape[0] < 8 else -self.linear(x)


def seeded(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model.eval()


def run(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_one_file_serves_every_batch(tmp_path: Path) -> None:
    model = seeded(Small())
    exported = cached(model, (torch.randn(1, 4),), tmp_path)
    again = cached(model, (torch.randn(5, 4),), tmp_path)
    assert exported == again
    assert abs(exported.borrowed_s) < 0.1 * exported.seconds  # it paid for it all
    assert 0 < again.borrowed_s < exported.seconds
    assert onnx.load(exported.path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert exported.static_batch == ""
    assert exported.seconds > 0
    for batch in (1, 3, 9):
        x = torch.randn(batch, 4)
        assert torch.allclose(run(exported.path, x), model(x), atol=1e-6)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    model, x = seeded(Small()), (torch.randn(1, 4),)
    partial = tmp_path / f".4711-{digest(model, x)}.onnx"
    partial.write_bytes(b"half a file")
    folder = tmp_path / f".4712-{digest(model, x)}.onnx"  # as the exporter makes it: a graph may have a second file
    folder.mkdir()
    (folder / "half.onnx").write_bytes(b"half a file")
    exported = cached(model, x, tmp_path)
    assert not partial.exists()
    assert not folder.exists()
    onnx.checker.check_model(str(exported.path))


def test_a_model_that_depends_on_its_batch_gets_a_file_for_each(tmp_path: Path) -> None:
    model = seeded(FixedBatch())
    files = {batch: cached(model, (torch.randn(batch, 4),), tmp_path) for batch in (2, 9)}
    assert files[2].path != files[9].path
    for batch, exported in files.items():
        assert exported.static_batch
        assert "static batch" in exported.notes[1]
        x = torch.randn(batch, 4)
        assert torch.allclose(run(exported.path, x), model(x), atol=1e-6)


def test_a_file_whose_maker_died_is_made_again(tmp_path: Path) -> None:
    model, x = seeded(Small()), torch.randn(1, 4)
    exported = cached(model, (x,), tmp_path)
    exported.path.with_suffix(".json").unlink()
    exported.path.write_bytes(b"half")
    assert torch.allclose(run(cached(model, (x,), tmp_path).path, x), model(x), atol=1e-6)


def _export(cache: Path, results: multiprocessing.Queue[Exported]) -> None:
    results.put(cached(seeded(Small()), (torch.zeros(1, 4),), cache))


def test_two_processes_export_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Exported] = context.Queue()
    workers = [context.Process(target=_export, args=(tmp_path, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = (results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert first == second  # the seconds too: only one of them exported
    assert [path.name for path in tmp_path.glob("*.onnx")] == [first.path.name]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".onnx" and path.name.startswith(".")]


def test_the_key_is_all_that_the_file_depends_on() -> None:
    x = (torch.zeros(2, 4),)
    base = digest(seeded(Small()), x)
    assert base == digest(seeded(Small()), (torch.ones(7, 4),))
    assert base != digest(seeded(Small(scale=2.0)), x)
    assert base != digest(seeded(FixedBatch()), x)
    assert base != digest(seeded(Small()), (torch.zeros(2, 5, 4),))
    nudged = seeded(Small())
    with torch.no_grad():
        nudged.linear.bias[0] += 1e-6
    assert base != digest(nudged, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_key_reads_weights_of_any_dtype(dtype: torch.dtype) -> None:
    assert digest(seeded(Small()).to(dtype), (torch.zeros(2, 4),))
