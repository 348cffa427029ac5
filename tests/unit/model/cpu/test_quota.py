import os
from pathlib import Path

import pytest

from model.cpu.quota import usable_cpus, usable_memory_bytes


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.fixture
def eight_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 2**21, "SC_PAGE_SIZE": 2**12}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """Lay out /proc and /sys as the kernel shows them."""
    for name, content in ({"proc/self/cgroup": cgroup} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("1600000 100000", 8), ("max 100000", 8)],
)
def test_the_quota_of_a_container(quota: str, cpus: int, tmp_path: Path) -> None:
    assert usable_cpus(system(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": f"{quota}\n"})) == cpus


def test_the_tightest_group_around_the_process_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/pods/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/pods/pod/cpu.max": "max 100000\n",
        "sys/fs/cgroup/pods/pod/container/cpu.max": "500000 100000\n",
    }
    assert usable_cpus(system(tmp_path, "0::/pods/pod/container\n", files)) == 3


def test_a_path_of_the_host_that_the_container_does_not_see(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "200000 100000\n"}
    assert usable_cpus(system(tmp_path, "0::/kubepods/pod1/container2\n", files)) == 2


@pytest.mark.parametrize(("quota", "cpus"), [("400000", 4), ("-1", 8)])
def test_the_first_version_of_control_groups(quota: str, cpus: int, tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us": f"{quota}\n",
        "sys/fs/cgroup/cpu/docker/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cpus(system(tmp_path, "5:cpuset:/docker\n4:cpu,cpuacct:/docker\n", files)) == cpus


@pytest.mark.parametrize("content", ["", "200000", "two of three"])
def test_what_cannot_be_read_limits_nothing(content: str, tmp_path: Path) -> None:
    assert usable_cpus(system(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": content})) == 8


def test_without_control_groups(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == 8


@pytest.mark.usefixtures("eight_gib")
@pytest.mark.parametrize(
    ("cgroup", "file", "limit", "usable"),
    [
        ("0::/\n", "memory.max", 2**31, 2**31),
        ("0::/\n", "memory.max", "max", 2**33),
        ("0::/\n", "memory.max", 2**40, 2**33),
        ("6:memory:/docker\n", "memory/docker/memory.limit_in_bytes", 2**30, 2**30),
    ],
)
def test_the_memory_of_a_container(cgroup: str, file: str, limit: int | str, usable: int, tmp_path: Path) -> None:
    assert usable_memory_bytes(system(tmp_path, cgroup, {f"sys/fs/cgroup/{file}": f"{limit}\n"})) == usable
