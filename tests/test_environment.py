"""The fingerprint, on this machine and on the /proc and /sys of others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from pyprod import environment

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz
stepping\t: 8
microcode\t: 0x2b
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: another
"""


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def xeon(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        proc__cpuinfo=XEON,
        sys__devices__system__cpu__cpu0__cache__index0__size="48K\n",
        sys__devices__system__cpu__cpu0__cache__index0__level="1\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="performance\n",
        sys__kernel__mm__transparent_hugepage__enabled="always [madvise] never\n",
    )


def test_this_machine_is_json_and_names_neither_host_nor_home() -> None:
    text = json.dumps(environment.fingerprint())
    assert json.loads(text)["cpu"]["logical"] >= 1
    assert json.loads(text)["packages"]["torch"]
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4
    assert str(Path.home()) + "/" not in text


def test_another_machine(xeon: Path) -> None:
    found = environment.cpu(xeon)
    assert found["model"] == "Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz"
    assert found["flags"] == ["avx2", "avx512f", "avx512_vnni", "amx_int8"]
    assert found["caches"] == [{"level": "1", "type": None, "size": "48K", "shared_cpu_list": None}]
    assert found["governor"] == "performance"
    assert environment.huge_pages(xeon) == "madvise"
    allowed = len(environment.allowed_cpus())
    assert environment.machine(xeon) == f"intel-xeon-platinum-8480c-{allowed}cpu" or environment.gpus()


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = environment.fingerprint(tmp_path)
    assert found["cpu"]["flags"] == []
    assert found["cpu"]["caches"] == []
    assert found["limits"]["cgroup_memory"] is None
    assert found["memory"]["huge_pages"] is None


def test_the_tightest_limit_of_the_groups_we_are_in(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__self__cgroup="1:cpu:/old\n0::/a.slice/b.scope\n",
        **{
            "sys__fs__cgroup__cpuset.cpus.effective": "0-7\n",
            "sys__fs__cgroup__a.slice__cpu.max": "150000 100000\n",
            "sys__fs__cgroup__a.slice__memory.max": "max\n",
            "sys__fs__cgroup__a.slice__b.scope__cpu.max": "max 100000\n",
            "sys__fs__cgroup__a.slice__b.scope__memory.max": "1073741824\n",
            "sys__fs__cgroup__other__memory.max": "1\n",
        },
    )
    assert environment.limits(tmp_path) == {
        "cgroup_cpu_quota": "150000 100000",
        "cgroup_cpus": "0-7",
        "cgroup_memory": "1073741824",
    }


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    write(tmp_path, proc__self__cgroup="0::/docker/8f2a\n", **{"sys__fs__cgroup__memory.max": "512\n"})
    assert environment.limits(tmp_path)["cgroup_memory"] == "512"
    assert environment.limits(tmp_path)["cgroup_cpu_quota"] is None


def test_one_cpu_per_core_before_its_siblings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    for number, text in siblings.items():
        name = f"sys__devices__system__cpu__cpu{number}__topology__thread_siblings_list"
        write(tmp_path, **{name: text + "\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(siblings))
    assert environment.cpus(2, tmp_path) == [0, 1]
    assert environment.cpus(4, tmp_path) == [0, 1, 2, 3]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3})
    assert environment.cpus(2, tmp_path) == [0, 3]
    assert environment.cpus(9, tmp_path) == [0, 3, 2]


def test_the_commit_and_whether_the_tree_differs_from_it(tmp_path: Path) -> None:
    assert environment.commit(tmp_path) == {"revision": None, "dirty": None}
    write(tmp_path, file="one")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], check=True)
    clean = environment.commit(tmp_path)
    assert len(clean["revision"]) == 40
    assert clean["dirty"] is False
    write(tmp_path, file="two")
    assert environment.commit(tmp_path) == {**clean, "dirty": True}


def test_gpu_memory_of_a_process_that_holds_none() -> None:
    assert environment.gpu_memory(os.getpid()) is None
