"""A forward on a CPU by several threads, each with rows of its own.

torch's own way is several threads inside each operation, and all wait at its end for the last: whenever HTTP, decoding or the index
take a core for a millisecond, every core loses it. Threads that share nothing wait once a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from model.inputs import Encoded, Prepared
from model.priority import yield_to_others

_MIN_PART_COST = (
    96  # positions: below it one thread alone is too slow for its rows (CLIP-B: 8 texts of 16 tokens, 2 images)
)

Forward = Callable[[Sequence[Prepared]], Callable[[], Encoded]]


class RowThreads:
    """As many threads as torch uses, which have one each inside an operation. `run` belongs to one thread."""

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="rows")
        here = threading.Barrier(self._threads)
        for ready in [self._pool.submit(_alone, here) for _ in range(self._threads)]:
            ready.result()
        torch.set_num_threads(self._threads)  # whichever thread set it last, the next ones begin with it

    @property
    def smallest(self) -> int:
        """What a batch costs at least that is cut into parts."""
        return self._threads * _MIN_PART_COST

    def run(self, forward: Forward, batch: Sequence[Prepared]) -> Encoded:
        """What `forward` gives of the whole batch, in its order. Raises what any part raised, when all are done."""
        parts = self.parts(batch)
        if len(parts) < 2:
            return forward(batch)()
        working = [
            self._pool.submit(lambda rows=rows: forward([batch[row] for row in rows])())  # type: ignore[misc]
            for rows in parts
        ]
        errors = [error for part in working if (error := part.exception())]
        if errors:
            raise errors[0]
        return Encoded.joined([part.result() for part in working]).at(
            np.argsort([row for rows in parts for row in rows])
        )

    def parts(self, batch: Sequence[Prepared]) -> list[list[int]]:
        """Rows of about the same cost for each thread, those of one kind together; one part where there is too little for all."""
        total = sum(item.cost for item in batch)
        if self._threads < 2 or total < self.smallest:
            return [list(range(len(batch)))]
        parts: list[list[int]] = [[] for _ in range(self._threads)]
        before = 0
        for row in sorted(range(len(batch)), key=lambda row: batch[row].kind):
            middle = before + batch[row].cost / 2
            parts[min(int(middle * self._threads / total), self._threads - 1)].append(row)
            before += batch[row].cost
        return [rows for rows in parts if rows]


def _alone(here: threading.Barrier) -> None:
    yield_to_others()
    torch.set_num_threads(1)
    torch.get_num_threads()  # or the first operation of this thread would take over what another thread has set since
    here.wait()  # so that every thread of the pool comes here once
