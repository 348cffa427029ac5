"""The CPUs that this process may use: those it is tied to, and no more than its control group has time for.

A container with a limit of two CPUs on a machine of 64 sees 64. With 64 threads it uses up its time in a thirtieth of
each period and is stopped for the rest of it.
"""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """Return how many CPUs this process may use, at least 1. A quota of part of a CPU is rounded down: a thread too
    many has all of them stopped. `root` is where /proc and /sys are."""
    tied_to = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([tied_to, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """Return the quotas, in CPUs, of this process's control groups and of those that they are in."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_quota_v2(folder) for folder in _groups(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_v1(folder) for folder in _groups(root / "sys/fs/cgroup/cpu", path)]
    return [quota for quota in quotas if quota is not None]


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
