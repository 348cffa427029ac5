"""Two first-in-first-out lanes of inputs, searches before bulk. Plain data without threads; `queue.Queue` guards it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from indexer.encoding.encoder import Lane
from model.errors import RetrievalError
from model.types import Embedding, Input, Prepared, Role

Result = Embedding | RetrievalError


@dataclass(slots=True, eq=False)
class Entry:
    """An input on its way to a batch. `cost` is an estimate until `prepared` is set."""

    item: Input
    role: Role
    lane: Lane
    future: asyncio.Future[Result]
    cost: int
    # Its part of the lane's bound; 0 once it is in a batch or its caller has gone.
    reserved: int = 0
    prepared: Prepared | None = None
    decode_s: float = 0.0
    ready_at: float = 0.0
    # Its batch failed: it is run again by itself, so that only the input at fault fails.
    alone: bool = False
    # Its caller has gone.
    gone: bool = False

    @property
    def has_picture(self) -> bool:
        return self.item.image is not None


class Lanes:
    """The order of turns between the lanes, and the inputs that form a batch."""

    def __init__(self, searches_per_bulk: int) -> None:
        self._queues: dict[Lane, deque[Entry]] = {lane: deque() for lane in Lane}
        self._searches_per_bulk = searches_per_bulk
        self._searches_in_a_row = 0  # taken while bulk was waiting

    def append(self, entry: Entry) -> None:
        self._queues[entry.lane].append(entry)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Put entries at the front of their lanes, in the order they had."""
        for entry in reversed(list(entries)):
            self._queues[entry.lane].appendleft(entry)

    def turn(self) -> Lane | None:
        """Return the next lane, None when both are empty. Bulk waits for at most `searches_per_bulk` searches."""
        search, bulk = self._waits(Lane.SEARCH), self._waits(Lane.BULK)
        if bulk and (not search or self._searches_in_a_row >= self._searches_per_bulk):
            return Lane.BULK
        return Lane.SEARCH if search else None

    def take(self, lane: Lane, budget: int) -> list[Entry]:
        """Take the batch at the head of `lane`: first in, first out, without callers who have gone, up to the budget.

        An entry over the budget is a batch of its own, or it would never go.
        """
        queue = self._queues[lane]
        batch: list[Entry] = []
        cost = 0
        while queue:
            entry = queue[0]
            if entry.gone:
                queue.popleft()
                continue
            if batch and (entry.alone or cost + entry.cost > budget):
                break
            batch.append(queue.popleft())
            cost += entry.cost
            if entry.alone:
                break
        self._count_turn(lane)
        return batch

    def head(self, lane: Lane) -> Entry | None:
        return self._queues[lane][0] if self._waits(lane) else None

    def count(self, lane: Lane) -> int:
        return sum(not entry.gone for entry in self._queues[lane])

    def costs(self, lane: Lane) -> list[int]:
        return [entry.cost for entry in self._queues[lane] if not entry.gone]

    def reaches(self, lane: Lane, budget: int) -> bool:
        """Return whether a batch taken now would be full."""
        cost = 0
        for entry in self._queues[lane]:
            cost += 0 if entry.gone else entry.cost
            if entry.alone or cost >= budget:
                return True
        return False

    def _waits(self, lane: Lane) -> bool:
        queue = self._queues[lane]
        while queue and queue[0].gone:
            queue.popleft()
        return bool(queue)

    def _count_turn(self, lane: Lane) -> None:
        waited_for = lane is Lane.SEARCH and self._waits(Lane.BULK)
        self._searches_in_a_row = self._searches_in_a_row + 1 if waited_for else 0
