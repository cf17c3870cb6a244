"""Zygotes fork several pairs, one after the other, and are renewed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pyprod import environment
from pyprod.gate import nursery
from pyprod.gate.nursery import Nursery
from pyprod.measure.process import WorkerFailed
from pyprod.types import PyprodError


@pytest.fixture
def made() -> Iterator[Nursery]:
    with Nursery(1, random.Random(random.randrange(2**31)), realtime=False, timeout=60.0) as found:
        yield found


def mapped(pid: int, name: str) -> str:
    """Where a process has a library."""
    return next(line.split("-")[0] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if name in line)


def test_sides_share_addresses_and_zygotes_are_renewed(
    made: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nursery, "PAIRS", 2)
    seen = []
    for _ in range(3):
        workers = made.fork(tmp_path, environment.allowed_cpus())
        pids = [worker._process.pid for worker in workers.values()]
        places = {mapped(pid, "libtorch_cpu") for pid in pids}
        assert len(places) == 1
        seen.append((made.started, places.pop()))
        for worker in workers.values():
            worker.close()
    assert [started for started, _ in seen] == [1, 1, 2]
    assert seen[0][1] == seen[1][1]


def test_a_side_that_dies_is_told_and_the_next_pair_lives(made: Nursery, tmp_path: Path) -> None:
    workers = made.fork(tmp_path, environment.allowed_cpus())
    workers["base"].send("_exit")
    with pytest.raises(WorkerFailed):
        workers["base"].ask("nothing of that name", 20.0)
    for worker in workers.values():
        worker.close()
    again = made.fork(tmp_path, environment.allowed_cpus())
    assert made.started == 1
    for worker in again.values():
        worker.close()


def test_a_zygote_that_was_killed_has_a_successor(made: Nursery, tmp_path: Path) -> None:
    for worker in made.fork(tmp_path, environment.allowed_cpus()).values():
        worker.close()
    assert made._zygote is not None
    made._zygote._process.kill()
    made._zygote._process.wait()
    for worker in made.fork(tmp_path, environment.allowed_cpus()).values():
        worker.close()
    assert made.started == 2


def test_what_starts_a_thread_is_not_imported_before_the_fork(
    made: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = nursery._Zygote.ask

    def threaded(self: Any, request: Mapping[str, Any], patience: float) -> dict[str, Any]:
        answer = ask(self, request, patience)
        return answer | {"started_threads": 1} if request.get("preload") else answer

    monkeypatch.setattr(nursery._Zygote, "ask", threaded)
    made.preload = ["html"]
    for worker in made.fork(tmp_path, environment.allowed_cpus()).values():
        worker.close()
    assert (made.started, made.preload) == (2, ())


def test_a_zygote_that_cannot_start_says_why(made: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    with pytest.raises(PyprodError, match="the processes could not be started: "):
        made.fork(tmp_path, environment.allowed_cpus())
