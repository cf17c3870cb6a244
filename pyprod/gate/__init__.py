"""Did the last change make it slower? Two revisions, measured in pairs of processes, and a verdict with its evidence.

>>> outcome = compare(Request("main"), Settings(budget_s=60))
>>> outcome.book.verdict

docs/gate.md says how it works and how often it errs.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pyprod import __version__, environment
from pyprod.gate import asv, config, records, revisions
from pyprod.gate.book import Book
from pyprod.gate.evidence import NAME, Writer, replay
from pyprod.gate.run import Gate, Progress, Sides, cpus
from pyprod.gate.settings import Settings
from pyprod.gate.sides import BASE, HEAD
from pyprod.measure.decide import Rule, Verdict
from pyprod.types import PyprodError

__all__ = ["Book", "Outcome", "Request", "Rule", "Settings", "Verdict", "compare", "compare_records", "replay"]


@dataclass(frozen=True)
class Request:
    """What to compare.

    Attributes:
        base, head: revisions: a branch, tag or commit, or `revisions.WORKING_TREE`.
        suite: globs of the files that define benchmarks, or of folders of asv's; empty for the project's own choice.
        asv: the suite is what HEAD's asv.conf.json names.
        folder: anywhere in the repository.
        out: the folder in which each run makes one for its evidence.
        cache: built revisions are kept here.
    """

    base: str
    head: str = revisions.WORKING_TREE
    suite: Sequence[str] = ()
    asv: bool = False
    folder: Path = Path()
    out: Path = Path("results/gate")
    cache: Path = Path()


class Outcome(NamedTuple):
    """What a run leaves: the book, and the folder with its evidence."""

    book: Book
    folder: Path


def compare(request: Request, settings: Settings, progress: Progress) -> Outcome:
    """Build both revisions, measure them, decide.

    Interrupted (KeyboardInterrupt), it ends its processes and returns what is known.

    Raises:
        PyprodError: a revision is unknown or does not build, there is no suite, HEAD can't import it, the disk is full.
    """
    cpus(settings.threads)  # said now, not after two builds
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="pyprod-gate-"))
        repository = revisions.Repository(request.folder.resolve(), Path(scratch))
        named = {BASE: repository.resolve(request.base), HEAD: repository.resolve(request.head)}
        sides = _prepare(repository, named, request, progress)
        progress(0.0, "waiting for another gate on this machine to end")
        stack.enter_context(_alone(request.cache / "measuring.lock"))
        folder = _new_folder(request.out, f"{named[BASE].commit[:7]}-{named[HEAD].commit[:7]}")
        book = Book()
        about: dict[str, Any] = {
            side: {"label": r.label, "commit": r.commit, "tree": r.tree} for side, r in named.items()
        }
        about |= {"pyprod": __version__, "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
        about |= {"environment": environment.fingerprint()}
        with Writer(folder / NAME, book) as writer:
            gate = Gate(sides, settings, writer, book, progress)
            gate.begin(about)
            try:
                gate.run()
            except KeyboardInterrupt:
                writer.record("interrupted")
    return Outcome(book, folder)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two gates that measure at once would each be the other's noise."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compare_records(base: Path, head: Path, settings: Settings, out: Path) -> Outcome:
    """Judge one stored record by another; see `pyprod.gate.records`.

    Raises:
        PyprodError: a record can't be read, they are of different machines, the disk is full.
    """
    folder = _new_folder(out, f"{base.resolve().name}-{head.resolve().name}")
    book = Book()
    about = {"pyprod": __version__, "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
    with Writer(folder / NAME, book) as writer:
        records.compare(base, head, settings, writer, about | {"environment": environment.fingerprint()})
    return Outcome(book, folder)


def _prepare(
    repository: revisions.Repository, named: Mapping[str, revisions.Revision], request: Request, progress: Progress
) -> Sides:
    """Both trees, built as HEAD's configuration says, and HEAD's suite."""
    cache = revisions.Cache(request.cache)
    about = config.read(repository.peek(named[HEAD], "pyproject.toml"))
    trees, logs = {}, request.cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for side, revision in named.items():
        progress(0.0, f"building {revision.label}")
        trees[side] = cache.prepare(repository, revision, about, logs / f"{side}.log")
    globs = (asv.folder(trees[HEAD][0] / "asv.conf.json"),) if request.asv else tuple(request.suite) or about.suite
    suite, own = ([p for glob in globs for p in sorted(trees[side][0].glob(glob))] for side in (HEAD, BASE))
    if not suite:
        raise PyprodError(f"HEAD has nothing that matches {', '.join(globs)}: docs/gate.md shows what one looks like")
    first = {side: found[0] for side, found in trees.items()}
    return Sides(trees, about.path, suite, own, repository.root, _sizes(first, about.outputs))


def _sizes(trees: Mapping[str, Path], outputs: Sequence[str]) -> dict[str, dict[str, int]]:
    """Bytes of each built file that both sides have, by its name."""
    built = {
        side: {str(p.relative_to(tree)): p.stat().st_size for glob in outputs for p in tree.glob(glob)}
        for side, tree in trees.items()
    }
    both = sorted(name for name in built[BASE].keys() & built[HEAD].keys() if built[BASE][name])
    return {name: {side: built[side][name] for side in (BASE, HEAD)} for name in both}


def _new_folder(root: Path, what: str) -> Path:
    name = f"{datetime.date.today().isoformat()}-{what}"
    try:
        if not root.exists():
            root.mkdir(parents=True)
            (root / ".gitignore").write_text("# One run's evidence is no part of the next one's working tree.\n*\n")
        for number in range(1, 10_000):
            folder = root / (name if number == 1 else f"{name}-{number}")
            if not folder.exists():
                folder.mkdir()
                return folder
    except OSError as error:
        raise PyprodError(f"can't make a folder for the evidence in {root}: {error.strerror}") from error
    raise PyprodError(f"{root} holds too many runs of {name}")
