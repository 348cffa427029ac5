"""Forwards side by side on a CPU, each in a thread of its own.

torch's own way is several threads inside each operation, and all wait at its end for the last: whenever HTTP, decoding
or the index take a core for a millisecond, every core loses it. Threads that share nothing never wait for each other:
each has a batch of its own, and while the callers of one are answered the others compute.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from model.cpu.priority import yield_to_others
from model.types import Encoded, Prepared

# Positions: with less, one thread by itself is too slow for its rows (CLIP-B: 8 texts of 16 tokens, 2 images).
LEAST_COST = 96

Forward = Callable[[Sequence[Prepared]], Callable[[], Encoded]]


class ForwardThreads:
    """Threads that compute forwards side by side: as many as torch would use within an operation, each
    single-threaded."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="forward")
        here = threading.Barrier(self.count)
        for ready in [self._pool.submit(_alone, here, cpus) for cpus in _own_cpus(self.count)]:
            ready.result()
        torch.set_num_threads(self.count)  # whichever thread set it last, the next ones begin with it

    def launch(self, forward: Forward, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        """Start `forward` in the next free thread. The returned function waits for its result, or raises what `forward`
        raised."""
        return self._pool.submit(lambda: forward(batch)()).result


def _own_cpus(threads: int) -> list[list[int]]:
    """Divide the available CPUs among the threads. Return empty lists if threads are not tied to CPUs.

    By itself, Linux often places a thread that waited for Python's lock on the CPU of the thread that released it,
    where it waits again although another CPU is idle (docs/decisions/threads-on-a-cpu.md).
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cpus) < threads:
        return [[] for _ in range(threads)]
    return [cpus[thread::threads] for thread in range(threads)]


def _alone(here: threading.Barrier, cpus: list[int]) -> None:
    yield_to_others()
    if cpus:
        # A sandbox may forbid it, or a CPU may be gone by now: then Linux chooses.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)  # of this thread
    torch.set_num_threads(1)
    torch.get_num_threads()  # or the first operation of this thread would take over what another thread has set since
    here.wait()  # so that every thread of the pool comes here once
