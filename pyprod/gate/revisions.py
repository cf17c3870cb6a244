"""From the name of a revision to a folder of its files, built: without touching the checkout, its index or its objects.

Built files are kept by what went into them (sources, command, compiler, interpreter, torch): a revision that changes
no source of theirs builds nothing, and only two builds of different things take two builds' time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyprod.gate.config import LAYOUT, Config
from pyprod.types import PyprodError

#: Written as a revision: the files as they lie in the checkout, whether committed or not.
WORKING_TREE = "WORKTREE"


@dataclass(frozen=True)
class Revision:
    """One side of a comparison.

    Attributes:
        name: as it was asked for.
        commit: full hash; of a working tree, that of the commit it is based on.
        tree: git's hash of the content: equal for equal files.
        changed: how many files of a working tree differ from its commit.
    """

    name: str
    commit: str
    tree: str
    changed: int = 0

    @property
    def label(self) -> str:
        """Short, for people: "main (1a2b3c4)"."""
        suffix = f" + {self.changed} changed" if self.changed else ""
        short = self.commit[:7]
        return f"{short}{suffix}" if self.commit.startswith(self.name) else f"{self.name} ({short}{suffix})"


class Repository:
    """The git repository around a folder.

    Args:
        scratch: folder for the objects of an uncommitted tree; git's own store stays as it is.

    Raises:
        PyprodError: the folder is in no repository, or there is no git.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.root = folder
        self._variables: dict[str, str] = {}
        self.root = Path(self._git("rev-parse", "--show-toplevel"))
        objects = Path(self._git("rev-parse", "--path-format=absolute", "--git-path", "objects"))
        self._variables = {
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
            "GIT_INDEX_FILE": str(scratch / "index"),
        }
        (scratch / "objects").mkdir(parents=True, exist_ok=True)

    def resolve(self, name: str) -> Revision:
        """A branch, tag or commit, or `WORKING_TREE`.

        Raises:
            PyprodError: git knows no commit of that name.
        """
        if name == WORKING_TREE:
            return self._working_tree()
        try:
            commit = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except PyprodError:
            raise PyprodError(
                f"{name!r} is no revision of {self.root}: git knows no such branch, tag or commit; a shallow clone "
                "lacks older ones (git fetch --unshallow)"
            ) from None
        return Revision(name, commit, self._git("rev-parse", f"{commit}^{{tree}}"))

    def peek(self, revision: Revision, path: str) -> str:
        """The text of one file; empty where the revision has none."""
        try:
            return self._git("cat-file", "blob", f"{revision.tree}:{path}")
        except PyprodError:
            return ""

    def export(self, revision: Revision, into: Path) -> None:
        """Write the files of a revision into the new folder `into`, all or none."""
        with tempfile.TemporaryDirectory(dir=into.parent) as folder:
            files = Path(folder, "files")
            files.mkdir()
            self._git("read-tree", revision.tree)
            self._git("checkout-index", "--all", f"--prefix={files}/")  # not archive: that obeys export-ignore
            files.rename(into)

    def _working_tree(self) -> Revision:
        """Tracked files and new ones that git does not ignore, as a tree of their own."""
        commit = self._git("rev-parse", "HEAD")
        self._git("read-tree", "HEAD")
        self._git("add", "--all")
        tree = self._git("write-tree")
        changed = self._git("diff-tree", "-r", "--name-only", commit, tree).splitlines()
        return Revision(WORKING_TREE, commit, tree, len(changed))

    def _git(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *arguments],
                capture_output=True,
                text=True,
                env=os.environ | self._variables,
            )
        except FileNotFoundError as error:
            raise PyprodError("git is not installed, or not in PATH") from error
        if done.returncode != 0:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise PyprodError(f"git {arguments[0]} failed in {self.root}: {reason[-1]}")
        return done.stdout.strip()


class Cache:
    """Exported and built revisions in a folder of the user's.

    Everything is built in one *workshop*, a folder that is turned from revision to revision by writing only the files
    that differ: the project's build system then compiles only what they touch, and no path makes two builds differ.
    """

    #: Trees beyond so many are deleted, the longest unused first. Layouts of one revision share most files' bytes.
    MOST_TREES = 100

    def __init__(self, folder: Path) -> None:
        self._trees, self._builds = folder / "trees", folder / "builds"
        self._workshops = folder / "workshops"
        for path in (self._trees, self._builds, self._workshops):
            path.mkdir(parents=True, exist_ok=True)

    def prepare(self, repository: Repository, revision: Revision, config: Config, log: Path) -> list[Path]:
        """Folders of a revision's files, built as `config` says: one for each layout. Folders of two revisions have
        names of one length: how long a path is moves what comes after it in memory.

        Args:
            log: takes what the build prints.

        Raises:
            PyprodError: the build fails, or leaves nothing; the message ends with its last words.
        """
        recipe = _digest(repr(config), *_tools(config))
        trees: list[Path] = []
        for layout in range(config.layouts if config.build else 1):
            tree = self._trees / _digest(revision.tree, recipe, str(layout))
            with _locked(tree.with_suffix(".lock")):
                if not tree.is_dir():
                    with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
                        fresh = Path(folder, "tree")
                        if trees:
                            shutil.copytree(trees[0], fresh, copy_function=os.link, ignore=_caches)
                        else:
                            repository.export(revision, fresh)
                        if config.build:
                            _copy(self._built(fresh, config, recipe, layout, log), fresh)
                        fresh.rename(tree)
            os.utime(tree)
            trees.append(tree)
        self._prune()
        return trees

    def _built(self, tree: Path, config: Config, recipe: str, layout: int, log: Path) -> Path:
        """Folder of what building `tree` gives, from the cache or made now."""
        sources = _matching(tree, config.inputs)
        contents = (hashlib.sha256(path.read_bytes()).hexdigest() for path in sources)
        names = (str(path.relative_to(tree)) for path in sources)
        built = self._builds / _digest(recipe, str(layout), *names, *contents)
        if built.is_dir():
            return built
        workshop = self._workshops / recipe
        with _locked(workshop.with_suffix(".lock")):
            _turn(workshop, tree)
            for stale in _matching(workshop, config.outputs):
                stale.unlink()
            _run_build(workshop, config, layout, log)
            found = _matching(workshop, config.outputs)
            if not found:
                raise PyprodError(f"the build succeeded, but left nothing that matches {', '.join(config.outputs)}")
            with tempfile.TemporaryDirectory(dir=built.parent) as folder:
                fresh = Path(folder, "outputs")
                _copy(workshop, fresh, found)
                with contextlib.suppress(OSError):  # another gate was first
                    fresh.rename(built)
        return built

    def _prune(self) -> None:
        trees = sorted((p for p in self._trees.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
        for tree in trees[self.MOST_TREES :]:
            shutil.rmtree(tree, ignore_errors=True)
            tree.with_suffix(".lock").unlink(missing_ok=True)


def _turn(workshop: Path, tree: Path) -> None:
    """Make `workshop` hold the files of `tree`: touch none that is the same, and none that a build made."""
    manifest = workshop / ".pyprod-gate-files"
    before = set(manifest.read_text().splitlines()) if manifest.is_file() else set()
    files = {str(path.relative_to(tree)): path for path in _matching(tree, ("**/*",))}
    for gone in before - files.keys():
        (workshop / gone).unlink(missing_ok=True)
    for name, path in files.items():
        target = workshop / name
        if target.is_file() and target.read_bytes() == path.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)  # without its date, which would be the commit's: older than the objects
    manifest.write_text("\n".join(sorted(files)))


def _caches(_: str, names: list[str]) -> list[str]:
    """What Python made in a tree, and another must make for itself."""
    return [name for name in names if name == "__pycache__"]


def _copy(source: Path, into: Path, files: Sequence[Path] | None = None) -> None:
    for path in _matching(source, ("**/*",)) if files is None else files:
        target = into / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # which another tree may share
        shutil.copy2(path, target)


def _run_build(tree: Path, config: Config, layout: int, log: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    variables = dict(config.environment or {}) | os.environ | {"PATH": path, LAYOUT: str(layout)}
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                config.build, cwd=tree, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        except FileNotFoundError as error:
            raise PyprodError(f"the build can't start: there is no {config.build[0]!r}") from error
    if done.returncode != 0:
        words = log.read_text(errors="replace").strip().splitlines()
        telling = next((line for line in words if "error" in line.lower()), words[-1] if words else "it said nothing")
        raise PyprodError(
            f"{' '.join(config.build)} failed with status {done.returncode}: {telling} (all of it: {log})"
        )


def _tools(config: Config) -> tuple[str, ...]:
    """What a build depends on beside its sources: versions, and the variables that the configuration names."""
    compiler = shutil.which(os.environ.get("CXX", "g++").split()[0])
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout if compiler else ""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = ""
    variables = (f"{name}={os.environ.get(name, default)}" for name, default in (config.environment or {}).items())
    return (sys.version, torch, said.partition("\n")[0], *variables)


def _matching(tree: Path, globs: Sequence[str]) -> list[Path]:
    found = {path for pattern in globs for path in tree.glob(pattern) if path.is_file()}
    return sorted(found)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
