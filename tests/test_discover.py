"""A file's name is its registration; what is missing elsewhere is a reason, what is wrong here is an error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyprod import discover
from pyprod.types import PyprodError, Unavailable

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes files of a package ``rooms`` that can be imported until the test ends."""
    package = tmp_path / "rooms"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name, text: (package / f"{name}.py").write_text(text) and None
    for name in [name for name in sys.modules if name.partition(".")[0] == "rooms"]:
        del sys.modules[name]


def test_names_are_the_public_files(write: Write) -> None:
    for name in ("eager", "_helper", "compile"):
        write(name, "raise AssertionError('imported')")
    assert discover.names("rooms") == ["compile", "eager"]


def test_a_module(write: Write) -> None:
    write("eager", "ANSWER = 42")
    assert discover.load("rooms", "eager").ANSWER == 42


def test_an_unknown_name_suggests_a_near_one(write: Write) -> None:
    write("eager", "")
    with pytest.raises(PyprodError, match=r"^unknown room 'eagr'; did you mean 'eager'\?$"):
        discover.load("rooms", "eagr")


def test_a_foreign_package_that_is_missing(write: Write) -> None:
    write("exotic", "import not_a_package_here.sub")
    with pytest.raises(Unavailable) as caught:
        discover.load("rooms", "exotic")
    assert caught.value.reason == "not_a_package_here is not installed"
    assert caught.value.remedy == "pip install not_a_package_here"
    assert str(discover.missing("not_a_package_here")) == str(caught.value)
    assert discover.missing("pytest") is None


@pytest.mark.parametrize(
    ("bug", "error"),
    [
        ("import pyprod.not_a_module", ModuleNotFoundError),
        ("from pyprod.types import Candidat", ImportError),
        ("1 / 0", ZeroDivisionError),
        ("def f(:", SyntaxError),
    ],
)
def test_our_own_bugs_are_not_hidden(write: Write, bug: str, error: type[Exception]) -> None:
    write("broken", bug)
    with pytest.raises(error):
        discover.load("rooms", "broken")


def test_a_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n")
    assert discover.load_file(path).A(1).x == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match="no such file"):
        discover.load_file(tmp_path / "mine.py")


def test_a_file_that_is_not_python(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(PyprodError, match="is not a Python file"):
        discover.load_file(path)


def test_entry_points_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "offers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: offers\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pyprod.workloads]\nmine = json:loads\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert discover.entry_points("pyprod.workloads")["mine"].load()("1") == 1
    assert "mine" not in discover.entry_points("pyprod.backends")


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("onnxruntim", ["onnxruntime", "eager"], "unknown backend 'onnxruntim'; did you mean 'onnxruntime'?"),
        ("zzz", ["b", "a"], "unknown backend 'zzz'; there are: a, b"),
        ("zzz", [], "unknown backend 'zzz'; there are: none"),
    ],
)
def test_unknown(name: str, known: list[str], message: str) -> None:
    assert discover.unknown("backend", name, known) == message
