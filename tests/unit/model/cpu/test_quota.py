import os
from pathlib import Path

import pytest

from model.cpu.quota import usable_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


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
