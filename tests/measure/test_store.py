"""Records: what was measured survives whatever happens to the writer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pyprod.measure import store
from pyprod.types import Candidate, Failure, Measurement, PyprodError

CANDIDATE = Candidate("encoder", "eager.fp32", batch=8)
LATENCY = Measurement(CANDIDATE, "latency", "ns", (1.5, 2), 3, 1, None, {"a": [1]}, "2026-01-01T00:00:00+00:00")
FAILED = Measurement(CANDIDATE, "failure", "", (), failure=Failure("crash", "time", "killed by SIGSEGV", "smoke"))


def new(root: Path, *measurements: Measurement) -> Path:
    path = store.create(root, "today", {"cpu": "toaster"}, {"candidates": []})
    with store.Writer(path) as writer:
        for measurement in measurements:
            writer.append(measurement)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = store.read(new(tmp_path, LATENCY, FAILED))
    assert record.measurements == (LATENCY, FAILED)
    assert record.environment == {"cpu": "toaster"}
    assert record.warnings == ()


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    paths = [new(tmp_path, LATENCY) for _ in range(3)]
    assert [p.name for p in paths] == ["today", "today-2", "today-3"]


def test_a_half_written_line_is_named_and_kept(tmp_path: Path) -> None:
    path = new(tmp_path, LATENCY)
    lines = path / store.MEASUREMENTS
    lines.write_bytes(lines.read_bytes() + b'{"candidate": {"workl')
    with store.Writer(path) as writer:
        writer.append(FAILED)
    record = store.read(path)
    assert record.measurements == (LATENCY, FAILED)
    (warning,) = record.warnings
    assert f"{lines}:2" in warning
    assert b'{"candidate": {"workl\n' in lines.read_bytes()


@pytest.mark.parametrize("line", [b"[]", b"{}", b'{"candidate": {"workload": 1}}', b"\xff\xfe", b"null"])
def test_a_line_that_is_no_measurement_is_skipped(tmp_path: Path, line: bytes) -> None:
    path = new(tmp_path)
    (path / store.MEASUREMENTS).write_bytes(line + b"\n")
    record = store.read(path)
    assert record.measurements == ()
    assert len(record.warnings) == 1


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyprodError, match=r"not a record: it has no plan\.json"):
        store.read(tmp_path)
    path = new(tmp_path)
    (path / store.ENVIRONMENT).write_text("{")
    with pytest.raises(PyprodError, match=r"can't read .*environment\.json"):
        store.read(path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = new(tmp_path)
    with store.Writer(path), pytest.raises(PyprodError, match="another run is writing"):
        store.Writer(path)
    store.Writer(path).__exit__(None, None, None)


def test_nan_is_refused(tmp_path: Path) -> None:
    path = new(tmp_path)
    with store.Writer(path) as writer, pytest.raises(ValueError, match="not JSON compliant"):
        writer.append(Measurement(CANDIDATE, "latency", "ns", (float("nan"),)))
    assert (path / store.MEASUREMENTS).read_bytes() == b""


FILL = """
import resource, signal, sys
from pathlib import Path
from pyprod.measure import store
from tests.measure.test_store import LATENCY
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write past the limit is an error, as on a full disk
with store.Writer(path) as writer:
    writer.append(LATENCY)
    size = (path / store.MEASUREMENTS).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))
    writer.append(LATENCY)
"""


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = new(tmp_path)
    done = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, cwd=Path.cwd())
    assert "what was measured before is safe: make room, then --resume" in done.stderr
    record = store.read(path)
    assert record.measurements == (LATENCY,)
    assert record.warnings == ()


def test_writing_atomically_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    store.write_atomically(path, "old")
    with pytest.raises(TypeError):
        store.write_atomically(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
