"""Two first-in-first-out lanes of inputs, searches before bulk. Plain data without threads; `queue.Queue` guards it.

In a lane the inputs of each model have a line of their own, for a batch is of one model. The next batch is of the model
whose first input has waited longest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from indexer.encoding.encoder import Lane
from model.errors import RetrievalError
from model.types import Embedding, Input, Prepared, Role
from service.encoder.loaded import LoadedModel

Result = Embedding | RetrievalError


@dataclass(slots=True, eq=False)
class Entry:
    """An input on its way to a batch. `cost` is an estimate until `prepared` is set."""

    item: Input
    model: LoadedModel
    role: Role
    lane: Lane
    future: asyncio.Future[Result]
    cost: int
    # Its part of the lane's bound; 0 once it is in a batch or its caller has gone.
    reserved: int = 0
    prepared: Prepared | None = None
    decode_s: float = 0.0
    ready_at: float = 0.0
    # Its place in the line of its lane, over all models; lower is older.
    place: int = 0
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
        self._lines: dict[Lane, dict[LoadedModel, deque[Entry]]] = {lane: {} for lane in Lane}
        self._places = count()
        self._searches_per_bulk = searches_per_bulk
        self._searches_in_a_row = 0  # taken while bulk was waiting

    def append(self, entry: Entry) -> None:
        entry.place = next(self._places)
        self._line(entry).append(entry)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Put entries at the front of their lanes, in the order they had."""
        for entry in reversed(list(entries)):
            self._line(entry).appendleft(entry)

    def turn(self) -> Lane | None:
        """Return the next lane, None when both are empty. Bulk waits for at most `searches_per_bulk` searches."""
        search, bulk = self._waits(Lane.SEARCH), self._waits(Lane.BULK)
        if bulk and (not search or self._searches_in_a_row >= self._searches_per_bulk):
            return Lane.BULK
        return Lane.SEARCH if search else None

    def take(self, lane: Lane, budget: int) -> list[Entry]:
        """Take the batch at the head of `lane`: first in, first out, without callers who have gone, up to the budget.

        All of it is of one model. An entry over the budget is a batch of its own, or it would never go.
        """
        line = self._next_line(lane)
        batch: list[Entry] = []
        cost = 0
        while line:
            entry = line[0]
            if entry.gone:
                line.popleft()
                continue
            if batch and (entry.alone or cost + entry.cost > budget):
                break
            batch.append(line.popleft())
            cost += entry.cost
            if entry.alone:
                break
        self._count_turn(lane)
        return batch

    def head(self, lane: Lane) -> Entry | None:
        line = self._next_line(lane)
        return line[0] if line else None

    def count(self, lane: Lane) -> int:
        return sum(1 for _ in self._present(lane))

    def reaches(self, lane: Lane, budget: int) -> bool:
        """Return whether a batch taken now would be full."""
        cost = 0
        for entry in self._next_line(lane):
            cost += 0 if entry.gone else entry.cost
            if entry.alone or cost >= budget:
                return True
        return False

    def _line(self, entry: Entry) -> deque[Entry]:
        return self._lines[entry.lane].setdefault(entry.model, deque())

    def _next_line(self, lane: Lane) -> deque[Entry]:
        """Return the line of the model whose first input came first, empty when nothing waits."""
        for line in self._lines[lane].values():
            while line and line[0].gone:
                line.popleft()
        waiting = [line for line in self._lines[lane].values() if line]
        return min(waiting, key=lambda line: line[0].place, default=deque())

    def _present(self, lane: Lane) -> Iterator[Entry]:
        return (entry for line in self._lines[lane].values() for entry in line if not entry.gone)

    def _waits(self, lane: Lane) -> bool:
        return bool(self._next_line(lane))

    def _count_turn(self, lane: Lane) -> None:
        waited_for = lane is Lane.SEARCH and self._waits(Lane.BULK)
        self._searches_in_a_row = self._searches_in_a_row + 1 if waited_for else 0
