"""The CPUs and the memory that this process may use: the machine's, and no more than its control groups allow.

A container with a limit of two CPUs on a machine of 64 sees 64. With 64 threads it uses up its time in a thirtieth of
each period and is stopped for the rest of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", int, float)

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """Return how many CPUs this process may use, at least 1. A quota of part of a CPU is rounded down: a thread too
    many has all of them stopped. `root` is where /proc and /sys are."""
    tied_to = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([tied_to, *(int(quota) for quota in _limits(root, "cpu", _quota_v2, _quota_v1))]))


def usable_memory_bytes(root: Path = _ROOT) -> int:
    """Return how much memory this process and those of its control group may use."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_limits(root, "memory", _memory_v2, _memory_v1)])


def _limits(
    root: Path, controller: str, read_v2: Callable[[Path], T | None], read_v1: Callable[[Path], T | None]
) -> list[T]:
    """Return the limits of this process's control groups and of those that they are in."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits: list[T | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            limits += [read_v2(folder) for folder in _groups(root / "sys/fs/cgroup", path)]
        elif controller in controllers.split(","):
            limits += [read_v1(folder) for folder in _groups(root / "sys/fs/cgroup" / controller, path)]
    return [limit for limit in limits if limit is not None]


def _groups(mounted: Path, path: str) -> list[Path]:
    """Return the folder of a control group and those of all groups that it is in.

    In a container a path may be that of the host, of which only the last part is mounted, at the top.
    """
    group = mounted / path.strip("/")
    return [mounted, *(folder for folder in (group, *group.parents) if mounted in folder.parents)]


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None


def _memory_v2(group: Path) -> int | None:
    return _bytes_in(group / "memory.max")


def _memory_v1(group: Path) -> int | None:
    return _bytes_in(group / "memory.limit_in_bytes")


def _bytes_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # No such file, or "max".
        return None
