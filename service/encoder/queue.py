"""The encoder's queue: admission by cost, inputs to prepare, inputs ready for the model. Thread-safe; knows nothing of the model.

Three kinds of thread meet here: the event loop admits and discards, the pool takes what is to be prepared and brings it
back ready, the model thread takes batches. One condition guards everything and is never held while work is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from indexer.encoding.encoder import Lane
from model.errors import DependencyUnavailable
from model.types import Prepared
from service.encoder.lanes import Entry, Lanes
from service.settings import QueueSettings


@dataclass(frozen=True, slots=True)
class _Last:
    """The last batch of a lane: how long to wait for its callers, and how many inputs are ready when all of them ask again."""

    patience_s: float = 0.0
    until: float = 0.0
    expected: int = 0


class Queue:
    """Bounded by cost per lane, from admission until an input is in a batch.

    A call larger than its lane's whole bound is admitted when the lane is empty, else it could never be answered; the
    bounds on a request (`max_inputs_per_call`, `max_body_bytes`) keep that finite.
    """

    def __init__(
        self,
        settings: QueueSettings,
        clock: Callable[[], float] = time.monotonic,
        *,
        beside: int = 1,
        least_cost: int | None = None,
    ) -> None:
        """`beside` batches are computed side by side where there is a `least_cost` (`Runtime.least_cost`)."""
        self._settings = settings
        self._clock = clock
        self._beside = beside if least_cost else 1
        self._least_cost = least_cost or settings.max_batch_cost
        self.max_batch_cost = max(
            settings.max_batch_cost // self._beside, min(self._least_cost, settings.max_batch_cost)
        )
        self._changed = threading.Condition()
        # Texts and pictures are prepared apart, so that no text waits behind the decoding of a picture.
        self._unprepared = {pictures: Lanes(settings.searches_per_bulk) for pictures in (False, True)}
        self._ready = Lanes(settings.searches_per_bulk)
        self._open: set[Entry] = set()  # admitted and not yet in a batch
        self._taken: set[Entry] = set()  # in a batch and not yet answered
        self._held = dict.fromkeys(Lane, 0)
        self._last = dict.fromkeys(Lane, _Last())
        self._draining = False
        self._closed = False

    def held(self, lane: Lane) -> int:
        return self._held[lane]

    @property
    def refuses(self) -> bool:
        """Draining or closed: nothing is admitted any more."""
        return self._draining or self._closed

    @property
    def closed(self) -> bool:
        return self._closed

    def admit(self, lane: Lane, entries: Sequence[Entry], cost_per_s: float | None = None) -> int:
        """All of a call's entries or none. 0 when admitted, else the cost that has to go before the call fits.

        Raises `DependencyUnavailable` when draining or closed: under the lock, for whatever comes after `close` is never answered.
        """
        cost = sum(entry.cost for entry in entries)
        with self._changed:
            if self.refuses:
                raise DependencyUnavailable("the encoder is not running")
            over = self._held[lane] + cost - self._settings.bound(lane, cost_per_s)
            if over > 0 and self._held[lane] > 0:
                return min(over, self._held[lane])
            for entry in entries:
                self._hold(entry)
                self._unprepared[entry.has_picture].append(entry)
            return 0

    def discard(self, entries: Sequence[Entry]) -> None:
        """The caller has gone or has its answer: whatever still waits is dropped when its turn comes, and costs nothing now."""
        with self._changed:
            for entry in entries:
                entry.gone = True
                if entry in self._open:  # one that is in a batch keeps its pixels: the model is at them
                    entry.prepared = None
                self._release(entry)
            self._changed.notify_all()

    def next_to_prepare(self, *, pictures: bool) -> Entry | None:
        """Take the next input with a picture, or the next one without; None when nothing of the kind waits."""
        with self._changed:
            lanes = self._unprepared[pictures]
            lane = lanes.turn()
            # A budget of 0 takes a single entry.
            taken = lanes.take(lane, budget=0) if lane else []
            return taken[0] if taken else None

    def ready(self, entry: Entry, prepared: Prepared) -> None:
        with self._changed:
            if entry.gone or self._closed:
                return
            self._release(entry)
            entry.prepared, entry.cost, entry.ready_at = prepared, prepared.cost, self._clock()
            self._hold(entry)
            self._ready.append(entry)
            self._changed.notify_all()

    def retry_alone(self, batch: Sequence[Entry]) -> None:
        """A batch that failed: back to the head of its lane, each entry to be a batch of its own."""
        with self._changed:
            self._taken.difference_update(batch)
            back = [] if self._closed else [entry for entry in batch if not entry.gone]
            for entry in back:
                entry.alone = True
                self._hold(entry)
            self._ready.put_back(back)
            self._changed.notify_all()

    def answered(self, batch: Sequence[Entry], forward_s: float) -> None:
        lane = batch[0].lane
        with self._changed:
            self._taken.difference_update(batch)
            patience_s = min(self._settings.wait_share * forward_s, self._settings.max_wait_s)
            self._last[lane] = _Last(patience_s, self._clock() + patience_s, len(batch) + self._ready.count(lane))
            self._changed.notify_all()

    def next_batch(self) -> list[Entry]:
        """Blocks until there is a batch; empty when drained or closed: the model thread ends.

        Drained is when every batch has been answered too, since one that failed comes back.
        """
        with self._changed:
            while not self._closed:
                lane = self._ready.turn()
                if lane is None:
                    if self._draining and not (self._open or self._taken):
                        break
                    self._changed.wait()
                elif (wait_s := self._worth_waiting_s(lane)) > 0:
                    self._changed.wait(wait_s)
                elif batch := self._ready.take(lane, self._budget(lane)):
                    for entry in batch:
                        self._release(entry)
                    self._taken.update(batch)
                    return batch
        return []

    def alone(self, batch: Sequence[Entry]) -> bool:
        """Nothing but this batch is in the model, or is ready for it."""
        with self._changed:
            return len(self._taken) == len(batch) and self._ready.turn() is None

    def drain(self) -> None:
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def close(self) -> list[Entry]:
        """Ends everything. Returns what has no answer yet, the batches in the model included, for the caller to answer."""
        with self._changed:
            self._closed = True
            left = [*self._taken, *self._open]
            for entry in left:
                self._release(entry)
            self._taken.clear()
            self._changed.notify_all()
            return left

    def _worth_waiting_s(self, lane: Lane) -> float:
        """A full batch goes at once. A smaller one waits a little for what is on its way: inputs that are being prepared, and callers
        who have just been answered, many of whom ask again. Else those would always find a batch that has just left without them, and
        all batches would be half as large as they could be. Who waits loses a part of a forward; who comes in that time wins the rest
        of one."""
        if self.refuses or self._ready.reaches(lane, self._budget(lane)):
            return 0.0
        last, head, until = self._last[lane], self._ready.head(lane), 0.0
        if head and self._preparing(lane):
            until = head.ready_at + last.patience_s
        if self._ready.count(lane) < last.expected:
            until = max(until, last.until)
        return until - self._clock()

    def _budget(self, lane: Lane) -> int:
        """Of the next batch. Those that are computed side by side are to be alike: one that took all that is ready would leave the others
        without, and its callers, who come back together, would find them so again."""
        ready = self._ready.costs(lane)
        there = sum(ready) + sum(entry.cost for entry in self._taken if entry.lane is lane)
        parts = min(self._beside, there // self._least_cost)
        if parts < 2 or not ready or (not self._taken and parts < self._beside):
            return self.max_batch_cost  # too little for all of them: if it is alone, all compute it together
        return min(self.max_batch_cost, (there - 1) // parts + min(ready))  # rounded up to whole inputs

    def _preparing(self, lane: Lane) -> bool:
        return any(entry.prepared is None for entry in self._open if entry.lane is lane)

    def _hold(self, entry: Entry) -> None:
        entry.held = entry.cost
        self._held[entry.lane] += entry.held
        self._open.add(entry)

    def _release(self, entry: Entry) -> None:
        self._held[entry.lane] -= entry.held
        entry.held = 0
        self._open.discard(entry)
