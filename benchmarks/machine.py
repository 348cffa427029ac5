"""The machine a table was made on, in words and numbers: what a reader needs to judge a figure by."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from model.cpu.graph import Graph, convert
from service.encoder.runtime import choose_precision

_SIZES = (
    1024,
    2048,
    3072,
)  # square; the largest is past every cache, the smallest is not: the best of them is the peak
_REPEATS = 8


@dataclass(frozen=True, slots=True)
class Machine:
    """Read once, when the bench begins; `load_average` again when it ends."""

    processor: str
    cores: int
    threads: int  # torch's
    memory_gib: float
    torch_version: str
    python: str
    commit: str
    date: str
    load_average: float

    @classmethod
    def read(cls) -> Machine:
        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
            torch_version=torch.__version__,
            python=platform.python_version(),
            commit=_commit(),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            load_average=load_average(),
        )

    @property
    def slug(self) -> str:
        """For a file's name."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.processor} {self.cores} cores".lower()).strip("-")

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores, {self.threads} torch threads, {self.memory_gib:.0f} GiB, "
            f"torch {self.torch_version}, Python {self.python}, commit {self.commit}, {self.date}"
        )


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def precision() -> str:
    """That of the servers and of the bare models they are held against: RET2_PRECISION, or what auto is here."""
    return choose_precision(os.environ.get("RET2_PRECISION", "auto"), "cpu")


def matmul_peak(device: str = "cpu", dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = _SIZES) -> float:
    """Floating-point operations a second of the fastest square product: what any forward is held against. On a CPU
    torch and OpenVINO are tried."""
    best = 0.0
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty(size, size, device=device, dtype=dtype)
        ways: list[Callable[[], object]] = [partial(torch.mm, left, right, out=out)]
        if device == "cpu":
            product = convert(_Product(right.float()), (left.float(),), [(size, size)])
            ways.append(
                partial(Graph(product, str(dtype).removeprefix("torch."), torch.get_num_threads()), left.float())
            )
        for multiply in ways:
            multiply()
            for _ in range(_REPEATS):
                finish(device)
                began = time.perf_counter()
                multiply()
                finish(device)
                best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


class _Product(nn.Module):
    right: Tensor

    def __init__(self, right: Tensor) -> None:
        super().__init__()
        self.register_buffer("right", right)

    def forward(self, left: Tensor) -> tuple[Tensor]:
        return (left @ self.right,)


def finish(device: str) -> None:
    """Waits for what was launched; a CPU has done it by then."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _processor() -> str:
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def _commit() -> str:
    """Of the checkout, with a + where files differ from it."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.decode().strip() + ("+" if changed.stdout.strip() else "")
