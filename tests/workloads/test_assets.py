"""The cache of fetched files: digests, several processes at once, sources that fail."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from pyprod.types import PyprodError, Unavailable
from pyprod.workloads import _assets, _sources, _weights

CONTENT = b"some weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYPROD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "w.bin").write_bytes(CONTENT)
    return folder


def asset(*sources: _assets.Source) -> _assets.Asset:
    return _assets.Asset("thing-1.0", {"w.bin": DIGEST}, len(CONTENT), sources)


def test_is_fetched_once(origin: Path) -> None:
    thing = asset(_sources.url(origin.as_uri(), ["w.bin"]))
    assert not thing.cached
    assert (_assets.fetch(thing) / "w.bin").read_bytes() == CONTENT
    assert thing.cached
    (origin / "w.bin").unlink()
    assert (_assets.fetch(thing) / "w.bin").read_bytes() == CONTENT


def test_a_wrong_digest_is_named_and_leaves_the_cache_clean(origin: Path) -> None:
    thing = asset(_sources.local(origin, ["w.bin"]))
    (origin / "w.bin").write_bytes(b"other weights")
    got = hashlib.sha256(b"other weights").hexdigest()
    with pytest.raises(PyprodError, match=rf"w\.bin has a wrong digest: expected SHA-256 {DIGEST}, got {got}"):
        _assets.fetch(thing)
    assert not [path for path in _assets.cache_dir().iterdir() if path.suffix != ".lock"]
    (origin / "w.bin").write_bytes(CONTENT)
    assert (_assets.fetch(thing) / "w.bin").read_bytes() == CONTENT


def test_a_file_that_is_damaged_in_the_cache_is_not_used(origin: Path) -> None:
    thing = asset(_sources.local(origin, ["w.bin"]))
    (_assets.fetch(thing) / "w.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(PyprodError, match=rf"wrong digest.*delete {thing.folder} to have it fetched again"):
        _assets.fetch(thing)


def test_the_next_source_is_tried_and_all_that_fail_are_named(origin: Path, tmp_path: Path) -> None:
    nowhere = _sources.local(tmp_path / "nowhere", ["w.bin"])
    assert _assets.fetch(asset(nowhere, _sources.local(origin, ["w.bin"]))).is_dir()
    with pytest.raises(Unavailable, match=r"thing-2 can't be fetched: no .*nowhere/w\.bin; http://127.0.0.1:9/w\.bin"):
        _assets.fetch(
            _assets.Asset("thing-2", {"w.bin": DIGEST}, 1, (nowhere, _sources.url("http://127.0.0.1:9", ["w.bin"])))
        )


def test_an_unreachable_package_index_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"pip download gensim==4\.4\.0: No matching distribution") as caught:
        _assets.fetch(asset(_sources.package("gensim==4.4.0", DIGEST, ["x"])))
    assert "PIP_FIND_LINKS" in caught.value.remedy
    assert time.monotonic() - start < 30


def test_a_package_with_another_digest_is_refused_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "thing-1.0-py3-none-any.whl"
    (tmp_path / name).write_bytes(b"not even a wheel")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        PyprodError, match=rf"thing==1\.0 has a wrong digest: expected SHA-256 {DIGEST}, got [0-9a-f]{{64}}"
    ):
        _assets.fetch(asset(_sources.package("thing==1.0", DIGEST, ["w.bin"])))


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PYPROD_CACHE", str(tmp_path / "file"))
    with pytest.raises(PyprodError, match=r"can't write .* \(set PYPROD_CACHE"):
        _assets.fetch(asset(_sources.local(origin, ["w.bin"])))


def _slow_fetch(log: Path) -> None:
    def source(folder: Path) -> None:
        with log.open("a") as file:
            file.write("fetched\n")
        time.sleep(0.3)
        (folder / "w.bin").write_bytes(CONTENT)

    assert (_assets.fetch(asset(source)) / "w.bin").read_bytes() == CONTENT


def test_processes_that_need_the_same_file_at_once_fetch_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_slow_fetch, args=(tmp_path / "log",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / "log").read_text() == "fetched\n"


def test_a_disk_that_is_full_is_said(origin: Path) -> None:
    def source(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(PyprodError, match=r"No space left on device \(set PYPROD_CACHE to a folder with room\)"):
        _assets.fetch(asset(source))
    assert (_assets.fetch(asset(_sources.local(origin, ["w.bin"]))) / "w.bin").read_bytes() == CONTENT


def test_what_a_killed_process_left_behind_is_replaced(origin: Path) -> None:
    thing = asset(_sources.local(origin, ["w.bin"]))
    part = thing.folder.with_name(f".{thing.folder.name}.part")
    part.mkdir(parents=True)
    (part / "w.bin").write_bytes(b"half of it")
    assert (_assets.fetch(thing) / "w.bin").read_bytes() == CONTENT
    assert not part.exists()


def test_derived_tensors_are_computed_once_for_each_key_and_checked() -> None:
    calls = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.arange(6).view(2, 3).T}

    for _ in range(2):
        assert torch.equal(_assets.derive("numbers", 1, make)["x"], torch.arange(6).view(2, 3).T)
    assert len(calls) == 1
    _assets.derive("numbers", 2, make)
    assert len(calls) == 2
    for path in _assets.cache_dir().glob("numbers-*/tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(PyprodError, match=r"wrong digest.*to have it computed again"):
        _assets.derive("numbers", 1, make)


def test_committed_weights_that_are_not_those_committed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(_weights, "FOLDER", tmp_path)
    with pytest.raises(PyprodError, match=r"digits\.safetensors has a wrong digest.*pyprod\.train digits"):
        _weights.trained("digits")
