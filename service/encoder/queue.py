"""The encoder's queue: admission by cost, inputs to prepare, and inputs ready for a model. Thread-safe.

Its bounds hold over all models of the device together.

Three kinds of thread use it: the event loop admits and discards, the pools take inputs and bring them back prepared,
and the model thread takes batches. A single condition guards everything and is never held while work is done.
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
    """The last batch of a lane: how long to wait for its callers, and how many inputs they make ready."""

    patience_s: float = 0.0
    until: float = 0.0
    expected: int = 0


class Queue:
    """Bounded by cost per lane, from admission until an input is in a batch.

    A call larger than the whole bound of its lane is admitted when the lane is empty, for it could never be answered
    otherwise. The bounds on a request (`max_inputs_per_call`, `max_body_bytes`) limit its size.
    """

    def __init__(self, settings: QueueSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._changed = threading.Condition()
        # Texts and pictures are prepared apart, so that no text waits behind the decoding of a picture.
        self._unprepared = {pictures: Lanes(settings.searches_per_bulk) for pictures in (False, True)}
        self._ready = Lanes(settings.searches_per_bulk)
        # Admitted and not yet in a batch.
        self._open: set[Entry] = set()
        # In a batch and not yet answered.
        self._taken: set[Entry] = set()
        self._held = dict.fromkeys(Lane, 0)
        self._last = dict.fromkeys(Lane, _Last())
        self._draining = False
        self._closed = False

    def held(self, lane: Lane) -> int:
        """Return the cost that is queued in a lane."""
        return self._held[lane]

    def bound(self, lane: Lane, cost_per_s: float | None) -> int:
        """Return the cost that a lane may hold."""
        return self._settings.bound(lane, cost_per_s)

    @property
    def refuses(self) -> bool:
        """Whether the queue is draining or closed and admits nothing."""
        return self._draining or self._closed

    @property
    def closed(self) -> bool:
        return self._closed

    def admit(self, lane: Lane, entries: Sequence[Entry], cost_per_s: float | None = None) -> int:
        """Admit all entries of a call or none. Return 0, or the cost that has to be served before the call fits.

        Raises `DependencyUnavailable` when draining or closed; it checks under the lock, for entries after `close`
        get no answer.
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
        """Drop the entries of a caller who has gone or has an answer, and give back their cost at once."""
        with self._changed:
            for entry in entries:
                entry.gone = True
                # An entry in a batch keeps its pixels, for the model reads them.
                if entry in self._open:
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
        """Put a failed batch back at the head of its lane, each entry as a batch of its own."""
        with self._changed:
            self._taken.difference_update(batch)
            retried = [] if self._closed else [entry for entry in batch if not entry.gone]
            for entry in retried:
                entry.alone = True
                self._hold(entry)
            self._ready.put_back(retried)
            self._changed.notify_all()

    def answered(self, batch: Sequence[Entry], forward_s: float) -> None:
        lane = batch[0].lane
        with self._changed:
            self._taken.difference_update(batch)
            patience_s = min(self._settings.wait_share * forward_s, self._settings.max_wait_s)
            self._last[lane] = _Last(patience_s, self._clock() + patience_s, len(batch) + self._ready.count(lane))
            self._changed.notify_all()

    def next_batch(self) -> list[Entry]:
        """Block until there is a batch. Empty when drained or closed: the model thread ends.

        The queue is drained once every batch is answered, since a failed batch comes back.
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

    def drain(self) -> None:
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def close(self) -> list[Entry]:
        """Close the queue and return the unanswered entries, those in the model included."""
        with self._changed:
            self._closed = True
            unanswered = [*self._taken, *self._open]
            for entry in unanswered:
                self._release(entry)
            self._taken.clear()
            self._changed.notify_all()
            return unanswered

    def _worth_waiting_s(self, lane: Lane) -> float:
        """Return how long to wait for a fuller batch: not at all for a full one, else a part of a forward.

        Waiting lets clients that were just answered, and inputs that are being prepared, join the next batch;
        otherwise two half-full batches alternate for ever.
        """
        if self.refuses or self._ready.reaches(lane, self._budget(lane)):
            return 0.0
        last, head, until = self._last[lane], self._ready.head(lane), 0.0
        if head and self._preparing(lane):
            until = head.ready_at + last.patience_s
        if self._ready.count(lane) < last.expected:
            until = max(until, last.until)
        return until - self._clock()

    def _budget(self, lane: Lane) -> int:
        """Return the cost that the next batch may have."""
        head = self._ready.head(lane)
        return head.model.budget.cost if head else 0

    def _preparing(self, lane: Lane) -> bool:
        return any(entry.prepared is None for entry in self._open if entry.lane is lane)

    def _hold(self, entry: Entry) -> None:
        entry.reserved = entry.cost
        self._held[entry.lane] += entry.reserved
        self._open.add(entry)

    def _release(self, entry: Entry) -> None:
        self._held[entry.lane] -= entry.reserved
        entry.reserved = 0
        self._open.discard(entry)
