"""Where assets come from: a package index, a URL, a Debian package, a folder."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pyprod.types import PyprodError, Unavailable
from pyprod.workloads._assets import Source

#: Seconds without an answer before a source counts as unreachable.
TIMEOUT = 10


def package(requirement: str, sha256: str, members: Sequence[str], options: Sequence[str] = ()) -> Source:
    """Members of a package from the user's package index.

    Args:
        requirement: pinned: "gensim==4.4.0".
        sha256: of the archive. pip checks it before it runs anything of a source distribution.
        members: paths inside the archive; each is left in the folder under its last component.
        options: of ``pip download``: which of the package's archives it shall be.
    """

    def source(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            wanted = scratch / "requirements.txt"
            wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--no-input"]
            command += ["--disable-pip-version-check", "--timeout", str(TIMEOUT), "--retries", "1", *options]
            command += ["--require-hashes", "--requirement", str(wanted), "--dest", str(scratch / "out")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise _pip_problem(requirement, sha256, done.stderr)
            (archive,) = (scratch / "out").iterdir()
            _unpack(archive, members, folder)

    return source


def url(base: str, files: Sequence[str]) -> Source:
    """Files below an address: ``base/file``."""

    def source(folder: Path) -> None:
        for name in files:
            try:
                with urllib.request.urlopen(f"{base}/{name}", timeout=TIMEOUT) as reply:
                    _save(reply, folder / name)
            except OSError as error:  # URLError, HTTPError, a timeout and a broken connection all are
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                why = getattr(error, "reason", error)
                raise Unavailable(f"{base}/{name}: {why}", "check the network connection") from error

    return source


def debian(name: str, inside: str, files: Sequence[str]) -> Source:
    """Files of a Debian package, fetched by apt and unpacked without root; nothing is installed."""

    def source(folder: Path) -> None:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Unavailable("not a Debian system")
        with tempfile.TemporaryDirectory() as scratch:
            get = ["apt-get", "-o", f"Acquire::http::Timeout={TIMEOUT}", "-o", "Acquire::Retries=0", "download", name]
            done = subprocess.run(get, cwd=scratch, capture_output=True, text=True, check=False)
            archives = list(Path(scratch).glob("*.deb"))
            if done.returncode or not archives:
                problem = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise Unavailable(f"apt-get download {name}: {problem}", f"apt install {name}")
            subprocess.run(["dpkg-deb", "-x", str(archives[0]), scratch], check=True)
            local(Path(scratch) / inside, files)(folder)

    return source


def local(path: Path, files: Sequence[str]) -> Source:
    """Files that are already somewhere on this machine."""

    def source(folder: Path) -> None:
        for name in files:
            if not (path / name).is_file():
                raise Unavailable(f"no {path / name}")
            shutil.copyfile(path / name, folder / name)

    return source


def _pip_problem(requirement: str, sha256: str, stderr: str) -> PyprodError:
    if got := re.search(r"Got\s+([0-9a-f]{64})", stderr):
        return PyprodError(
            f"{requirement} has a wrong digest: expected SHA-256 {sha256}, got {got[1]} "
            "(the package index gives another file than the one pyprod knows; nothing of it was kept)"
        )
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.strip()]
    remedy = "check the connection to the package index, or set PIP_FIND_LINKS to a folder that holds the package"
    return Unavailable(f"pip download {requirement}: {lines[-1] if lines else 'no reason given'}", remedy)


def _unpack(archive: Path, members: Sequence[str], folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for member in members:
                with wheel.open(member) as content:
                    _save(content, folder / Path(member).name)
        return
    with tarfile.open(archive) as sdist:
        for member in members:
            file = sdist.extractfile(member)
            assert file is not None, f"{member} is a folder"
            _save(file, folder / Path(member).name)


def _save(content: IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(content, file)
