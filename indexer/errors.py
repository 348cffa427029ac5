"""Errors of ingestion: who failed, and whether one document or one collection is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import DependencyUnavailable, NotFound, Overloaded, TimedOut


class Died(DependencyUnavailable):
    """The process that was at work on this ended, or was given up, before it answered.

    A restart ends as a document that kills, so nothing is to blame at once: what was in hand is tried again alone.
    """

    failure: str  # the code of a document with which it happens every time


class EncoderDied(Died):
    """The encoder ended before it answered."""

    failure = "encoder_died"


class EncoderTimedOut(Died, TimedOut):
    """The encoder did not answer in time: it may be away or busy, or what it was given takes it too long."""

    failure = "encoder_timed_out"


class StoreDied(Died):
    """The store ended before it answered."""

    failure = "store_died"


class StoreTimedOut(StoreDied):
    """The store did not answer in time and was given up, as if it had ended: what it was given may take it too long."""

    failure = "store_timed_out"


class ModelUnavailable(DependencyUnavailable):
    """This model cannot be used now; others of the same process can."""


class CollectionUnavailable(DependencyUnavailable):
    """This collection cannot be written now; others can."""


class CollectionDamaged(CollectionUnavailable):
    """The files of this collection cannot be opened; others can be used."""


class WriteUnanswered(DependencyUnavailable):
    """The store did not answer a write, and may still carry it out, after writes that come later."""


class CollectionWriteUnanswered(WriteUnanswered, CollectionUnavailable):
    """A write of which one collection's part of the store did not answer."""


class PointsMissing(NotFound):
    """The store has no points of this name.

    Whoever makes points takes that as an answer. Where the ledger has the collection they are lost, or somebody is
    deleting it: a caller is told that the store lacks them, not that there is no such collection.
    """

    status = DependencyUnavailable.status
    code = DependencyUnavailable.code

    def __init__(self, detail: str) -> None:
        advice = "If it was not deleted, restore a backup, or delete it and index its documents again"
        super().__init__(f"{detail}. {advice}", field="collection")


class IndexUnfinished(DependencyUnavailable):
    """The store is still building an index that this call needs."""


class CollectionDied(CollectionUnavailable, Died):
    """The encoder of this collection ended before it answered; others have another one."""


@contextmanager
def one_collection_waits() -> Iterator[None]:
    try:
        yield
    except Died as error:
        died = CollectionDied(error.detail)
        died.failure = error.failure
        raise died from error
    except (DependencyUnavailable, Overloaded) as error:
        raise CollectionUnavailable(error.detail) from error
