"""The model without a service: prepared inputs in, vectors out, as fast as this process can."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks import inputs
from benchmarks.inputs import Kind
from model.retriever import Retriever
from model.types import Input, Limits, Prepared, Role

BATCHES = (1, 4, 8, 16, 32, 64)


def prepared(retriever: Retriever, items: Sequence[Input]) -> list[Prepared]:
    return [retriever.prepare(item, Role.QUERY, Limits()) for item in items]


def batch_of(retriever: Retriever, kind: Kind, size: int) -> list[Prepared]:
    return prepared(retriever, inputs.items(kind, size))


def rate(work: Callable[[], object], size: int, seconds: float) -> float:
    """Inputs a second of a batch of `size`, over as many whole batches as begin in `seconds`; one at least."""
    began = time.perf_counter()
    done = 0
    while not done or time.perf_counter() - began < seconds:
        work()
        done += size
    return done / (time.perf_counter() - began)


def best_batch(retriever: Retriever, kind: Kind, seconds: float, sizes: Sequence[int] = BATCHES) -> list[Prepared]:
    """The batch that gives the most inputs a second."""
    found = []
    for size in sizes:
        batch = batch_of(retriever, kind, size)
        retriever.encode(batch)
        found.append((rate(lambda batch=batch: retriever.encode(batch), size, seconds), batch))  # type: ignore[misc]
    return max(found, key=lambda one: one[0])[1]
