"""``pyprod export`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from pyprod.cli import main
from pyprod.export.deliver import formats

TINY = "tests/tiny.py:build"


class Export:
    """The verb, in this process: importing torch takes longer than all that it does."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, folder: Path, *options: str) -> tuple[int, str, str]:
        code = main(["export", TINY, "--shapes", "3", "--rows", "8", *options, "--out", str(folder)])
        return code, *self._capture.readouterr()


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    monkeypatch.setenv("PYPROD_CACHE", str(tmp_path / "cache"))
    return Export(capsys)


def test_files_and_what_is_wrong_with_a_file(tmp_path: Path, export: Export) -> None:
    code, out, _ = export(tmp_path / "out", "--format", "onnx", "safetensors")
    assert code == 0
    assert "in 3 runtimes" in out
    names = ["tiny.onnx", "tiny.onnx.parity.json", "tiny.safetensors", "tiny.safetensors.parity.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    path = tmp_path / "out" / "tiny.onnx"
    model = onnx.load(path)
    about = {p.key: p.value for p in model.metadata_props}
    assert about["workload"] == TINY
    assert about["recipe"] == "base"
    assert len(about["weights"]) >= 12

    code, out, _ = export(tmp_path, "--check", str(path), "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["problems"] == []

    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    relu.op_type = "Abs"
    onnx.save(model, path)
    code, out, _ = export(tmp_path, "--check", str(path))
    assert code == 1
    assert "step relu" in out

    path.write_bytes(path.read_bytes()[:-50])
    code, _, errors = export(tmp_path, "--check", str(path))
    assert code == 2
    assert errors.startswith(f"pyprod: {path} is no whole ONNX file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "onxx"), "unknown format 'onxx'; did you mean 'onnx'"),
        (("--opset", "9"), "opset 9: the exporter writes 18 to 25"),
        (("--format", "onnx_qdq"), "no QuantSpec"),
        (("--recipe", "half"), "unknown recipe 'half'"),
        (("--check", "missing.onnx"), "missing.onnx"),
    ],
)
def test_what_can_not_be_is_said(tmp_path: Path, export: Export, options: tuple[str, ...], message: str) -> None:
    code, out, errors = export(tmp_path / "out", *options)
    assert code == 2
    assert message in (errors + out).replace("\n", " ")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_can_not_hold_a_model_is_no_failure_of_all(tmp_path: Path, export: Export) -> None:
    code, out, _ = export(tmp_path / "out", "--format", "all", "--json")
    assert code == 0
    found = {row["format"]: row for row in json.loads(out)}
    assert found["onnx_fused"]["problem"]
    assert "facts" not in found["onnx_fused"]
    assert not found["onnx"]["problem"]


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    listed = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}, " in listed for name in formats())
