"""Revisions: the right files, built once, and the checkout left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyprod.gate.config import Config, read
from pyprod.gate.revisions import WORKING_TREE, Cache, Repository
from pyprod.types import PyprodError
from tests.gate.toy import Toy

BUILD = Config(
    build=("sh", "-c", "echo built >> $LOG; cat source.c > out.so; mkdir -p objects; echo x >> objects/made"),
    inputs=("*.c",),
    outputs=("*.so",),
)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    (tmp_path / "repo").mkdir()
    return Toy(tmp_path / "repo")


@pytest.fixture
def repository(toy: Toy, tmp_path: Path) -> Repository:
    return Repository(toy.root, tmp_path / "scratch")


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_an_unknown_revision_is_named(repository: Repository) -> None:
    with pytest.raises(PyprodError, match="'nonsense' is no revision"):
        repository.resolve("nonsense")


def test_a_revision_is_no_option(repository: Repository) -> None:
    with pytest.raises(PyprodError, match="no revision"):
        repository.resolve("--help")


def test_outside_of_a_repository(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match="git rev-parse failed"):
        Repository(tmp_path, tmp_path / "scratch")


def test_the_working_tree_holds_what_git_would_add(toy: Toy, repository: Repository, tmp_path: Path) -> None:
    toy.write(".gitignore", "*.log\n")
    toy.write("toy.py", "changed = 1\n")
    toy.write("new.py", "new = 1\n")
    toy.write("noise.log", "ignored")
    toy.git("add", "new.py")
    before = toy.git("status", "--porcelain"), files(toy.root / ".git/objects")
    revision = repository.resolve(WORKING_TREE)
    repository.export(revision, tmp_path / "tree")
    assert files(tmp_path / "tree") == {".gitignore", "toy.py", "new.py", "bench/gate_toy.py"}
    assert (tmp_path / "tree/toy.py").read_text() == "changed = 1\n"
    assert revision.changed == 3
    assert "3 changed" in revision.label
    assert (toy.git("status", "--porcelain"), files(toy.root / ".git/objects")) == before


def test_what_archives_leave_out_is_there(toy: Toy, repository: Repository, tmp_path: Path) -> None:
    toy.write(".gitattributes", "bench export-ignore\n")
    toy.commit("ignoring")
    repository.export(repository.resolve("ignoring"), tmp_path / "tree")
    assert files(tmp_path / "tree") == {".gitattributes", "toy.py", "bench/gate_toy.py"}


def test_equal_files_are_one_tree(toy: Toy, repository: Repository) -> None:
    toy.commit("empty")
    assert repository.resolve("base").tree == repository.resolve("empty").tree == repository.resolve(WORKING_TREE).tree


def test_one_file_of_a_revision(toy: Toy, repository: Repository) -> None:
    toy.write("toy.py", "changed")
    assert "def work" in repository.peek(repository.resolve("base"), "toy.py")
    assert repository.peek(repository.resolve(WORKING_TREE), "toy.py") == "changed"
    assert repository.peek(repository.resolve("base"), "gone.py") == ""


def test_a_build_is_kept_by_its_sources(
    toy: Toy, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    trees = {}
    for tag, source, other in (("one", "1", "a"), ("two", "2", "b"), ("same", "1", "c")):
        toy.write("source.c", source)
        toy.write("other.py", other)
        toy.commit(tag)
        revision = repository.resolve(tag)
        (trees[tag],) = Cache(tmp_path / "cache").prepare(repository, revision, BUILD, tmp_path / "build.log")
    assert {tag: (tree / "out.so").read_text() for tag, tree in trees.items()} == {"one": "1", "two": "2", "same": "1"}
    assert {tag: (tree / "other.py").read_text() for tag, tree in trees.items()} == {
        "one": "a",
        "two": "b",
        "same": "c",
    }
    assert (tmp_path / "log").read_text() == "built\n" * 2  # the third has the first one's sources
    assert len({len(str(tree)) for tree in trees.values()}) == 1
    assert not any((tree / "objects").exists() for tree in trees.values())


def test_layouts_differ_in_what_is_built_alone(toy: Toy, repository: Repository, tmp_path: Path) -> None:
    """They share the bytes of all other files; a build in one leaves the others as they are."""
    toy.write("out.so", "committed by mistake")
    toy.commit("one")
    config = Config(
        build=("sh", "-c", "echo $PYPROD_GATE_LAYOUT > out.so"), inputs=("*.py",), outputs=("*.so",), layouts=3
    )
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        trees = cache.prepare(repository, repository.resolve("one"), config, tmp_path / "build.log")
        assert [(tree / "out.so").read_text() for tree in trees] == ["0\n", "1\n", "2\n"]
        assert len({(tree / "toy.py").stat().st_ino for tree in trees}) == 1
    plain = Config(layouts=3)
    assert len(cache.prepare(repository, repository.resolve("one"), plain, tmp_path / "build.log")) == 1


def test_a_workshop_keeps_objects_and_drops_what_is_gone(
    toy: Toy, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    toy.write("source.c", "1")
    toy.write("folder/gone.c", "x")
    toy.commit("one")
    cache = Cache(tmp_path / "cache")
    cache.prepare(repository, repository.resolve("one"), BUILD, tmp_path / "build.log")
    (workshop,) = (p for p in (tmp_path / "cache/workshops").iterdir() if p.is_dir())
    untouched = (workshop / "toy.py").stat().st_mtime_ns
    toy.git("rm", "--quiet", "folder/gone.c")
    toy.write("source.c", "2")
    toy.commit("two")
    cache.prepare(repository, repository.resolve("two"), BUILD, tmp_path / "build.log")
    assert (workshop / "objects/made").read_text() == "x\nx\n"
    assert not (workshop / "folder/gone.c").exists()
    assert (workshop / "toy.py").stat().st_mtime_ns == untouched


def test_a_build_that_fails_says_why(toy: Toy, repository: Repository, tmp_path: Path) -> None:
    config = Config(
        build=("sh", "-c", "echo 'x.c:3: error: no such thing'; exit 7"), inputs=("*.py",), outputs=("*.so",)
    )
    with pytest.raises(PyprodError, match=r"status 7: x\.c:3: error: no such thing") as caught:
        Cache(tmp_path / "cache").prepare(repository, repository.resolve("base"), config, tmp_path / "build.log")
    assert str(tmp_path / "build.log") in str(caught.value)
    assert not [p for p in (tmp_path / "cache/trees").iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("command", "message"),
    [(("true",), "left nothing that matches"), (("no-such-program",), "there is no 'no-such-program'")],
)
def test_a_build_that_leaves_nothing(
    toy: Toy, repository: Repository, tmp_path: Path, command: tuple[str, ...], message: str
) -> None:
    config = Config(build=command, inputs=("*.py",), outputs=("*.so",))
    with pytest.raises(PyprodError, match=message):
        Cache(tmp_path / "cache").prepare(repository, repository.resolve("base"), config, tmp_path / "build.log")


def test_configuration() -> None:
    assert read("") == Config()
    text = '[tool.pyprod.gate]\nsuite = ["b.py"]\nbuild = ["make"]\ninputs = ["*.c"]\noutputs = ["x"]\n'
    assert read(text) == Config(("b.py",), build=("make",), inputs=("*.c",), outputs=("x",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.pyprod.gate]\nsuit = []\n", "unknown key 'suit'"),
        ('[tool.pyprod.gate]\nsuite = "x"\n', "suite must be a list of strings"),
        ("[tool.pyprod.gate]\nenvironment = [1]\n", "environment must be a table of strings"),
        ('[tool.pyprod.gate]\nbuild = ["make"]\n', "needs inputs and outputs"),
        ("[tool", "pyproject.toml can't be read"),
    ],
)
def test_configuration_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(PyprodError, match=message):
        read(text)
