"""Files from outside: fetched once, checked against their SHA-256, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from pyprod.types import PyprodError, Unavailable

#: Leaves an asset's files in the empty folder it is called with, or raises `Unavailable`. It need not check them.
Source = Callable[[Path], None]

_SUMS = "SHA256SUMS"  # the format of sha256sum(1): `sha256sum -c SHA256SUMS` checks by hand


@dataclass(frozen=True)
class Asset:
    """Files that a workload needs and the repository does not hold.

    Attributes:
        name: the folder in the cache, version included ("gensim-4.4.0").
        files: SHA-256 by file name; what every source must give and every use checks.
        size: bytes to be fetched.
        sources: where it can be had, tried in this order.
    """

    name: str
    files: Mapping[str, str]
    size: int
    sources: tuple[Source, ...]

    @property
    def folder(self) -> Path:
        """Where it is, or will be, in the cache: other digests are another folder."""
        return cache_dir() / f"{self.name}-{_key(sorted(self.files.items()))}"

    @property
    def cached(self) -> bool:
        """Whether no network is needed any more."""
        return self.folder.is_dir()


def cache_dir() -> Path:
    """``$PYPROD_CACHE``, or the platform's folder for what can be fetched again."""
    if chosen := os.environ.get("PYPROD_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "pyprod"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyprod"


def fetch(asset: Asset) -> Path:
    """The folder that holds the asset's files, each with the right digest; fetched when it isn't in the cache.

    Raises:
        Unavailable: no source can be reached.
        PyprodError: a source gave, or the cache holds, something else than the digest says.
    """
    if not asset.cached:
        _publish(asset.folder, lambda into: _from_first_source(asset, into))
    _verify(asset.folder, asset.files, f"delete {asset.folder} to have it fetched again")
    return asset.folder


def derive(name: str, key: object, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that are slow to compute (tokenized text, unpacked weights), computed once and cached.

    Args:
        name: what they are; the cache folder's name begins with it.
        key: all that `make` depends on: the digests of its files, its parameters, a version number of its own.
        make: computes the tensors.
    """
    folder = cache_dir() / f"{name}-{_key(key)}"

    def write(into: Path) -> None:
        path = into / "tensors.safetensors"
        save_file({k: v.contiguous() for k, v in make().items()}, path)
        (into / _SUMS).write_text(f"{sha256(path)}  {path.name}\n")

    if not folder.is_dir():
        _publish(folder, write)
    lines = (folder / _SUMS).read_text().splitlines()
    sums = {name: digest for digest, name in map(str.split, lines)}
    _verify(folder, sums, f"delete {folder} to have it computed again")
    tensors: dict[str, Tensor] = load_file(folder / "tensors.safetensors")
    return tensors


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, expected: str, remedy: str) -> None:
    """Raise `PyprodError` unless the file is there and has the expected SHA-256."""
    if not path.is_file():
        raise PyprodError(f"{path} is missing ({remedy})")
    got = sha256(path)
    if got != expected:
        raise PyprodError(f"{path} has a wrong digest: expected SHA-256 {expected}, got {got} ({remedy})")


def _key(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def _verify(folder: Path, files: Mapping[str, str], remedy: str) -> None:
    for name, expected in files.items():
        check(folder / name, expected, remedy)


def _from_first_source(asset: Asset, into: Path) -> None:
    problems = []
    for source in asset.sources:
        try:
            with _progress(asset):
                source(into)
        except Unavailable as why:
            problems.append(why)
            continue
        _verify(into, asset.files, "the source gives another file than the one pyprod knows; nothing of it was kept")
        return
    reasons = "; ".join(why.reason for why in problems)
    raise Unavailable(f"{asset.name} can't be fetched: {reasons}", problems[-1].remedy)


@contextmanager
def _progress(asset: Asset) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # only a terminal pays for the import

    with Console(stderr=True).status(f"fetching {asset.name} ({asset.size / 1e6:.0f} MB)"):
        yield


def _publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Create `folder` with what `write` leaves in it: all of it or nothing, by one process when several try."""
    part = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():
                return
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed: we hold the lock
            part.mkdir()
            write(part)
            part.replace(folder)
    except OSError as error:
        raise PyprodError(f"can't write {folder}: {error} (set PYPROD_CACHE to a folder with room)") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system frees it when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
