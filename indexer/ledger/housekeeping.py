"""Housekeeping of the ledger: its own state, turns at periodic tasks, deleting what has expired, and the images that
are in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.ledger.batches import cancel_some
from indexer.ledger.imports import cancel_unread
from indexer.ledger.repairs import Repairs
from indexer.ledger.sql import leases
from indexer.ledger.sql.database import Database
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import unpack
from indexer.ledger.sql.schema import batches, chores, doubts, failures, jobs, reindexes
from indexer.ledger.submissions import erase_abandoned, erase_some, left_open

# Accepted and not finished.
_OPEN = jobs.c.seq.is_not(None), jobs.c.finished_at.is_(None)


class Housekeeping(Part):
    def __init__(self, database: Database, repairs: Repairs) -> None:
        super().__init__(database)
        self._repairs = repairs

    @operation
    def now(self) -> float:
        """Return the time in Unix seconds by the clock of the ledger."""
        with self._database.read() as connection:
            return self._database.now(connection)

    @operation
    def check(self) -> None:
        """Raise `DependencyUnavailable` if the ledger does not work; see `Database.check`."""
        self._database.check()

    @operation
    def take_turn(self, chore: str, every_s: float) -> bool:
        """Return whether the caller is to run a periodic task now. Of all processes one does so every `every_s`
        seconds, also across restarts.

        The first call of all returns False. By the rule of `leases.is_past`, a clock that was set back delays the task
        by at most `every_s`.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            over = leases.is_past(chores.c.begun_at + every_s, sa.literal(every_s), now)
            due = sa.update(chores).where(chores.c.name == chore, over)
            if connection.execute(due.values(begun_at=now)).rowcount:
                return True
            if connection.execute(sa.select(chores).where(chores.c.name == chore)).first():
                return False
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(chores).values(name=chore, begun_at=now))
        except IntegrityError:
            # Another process was first.
            pass
        return False

    @operation
    def tidy(self, retention_s: float) -> bool:
        """Delete some of what is no longer needed, in small transactions, and return whether there is more: the remains
        of cancelled jobs, jobs that were never accepted, and jobs that finished longer than `retention_s` ago.

        Any number of processes may call it at once.
        """
        with self._database.read() as connection:
            now = self._database.now(connection)
            cancelled = connection.execute(_first_jobs(jobs.c.cancelling, *_OPEN, limit=10)).scalars().all()
            # The batches of a reindex keep the previous generation up to date after its job has finished.
            needed = jobs.c.id.in_(sa.select(reindexes.c.job_id))
            old = _first_jobs(jobs.c.finished_at < now - retention_s, ~needed)
            forgotten = connection.execute(old).scalar_one_or_none()
            abandoned = connection.execute(_first_jobs(*left_open(now))).scalar_one_or_none()
        self._repairs.forget_doubts.blocking(retention_s)
        for job_id in cancelled:
            cancel_unread(self._database, job_id)
        unfinished = [cancel_some(self._database, job_id) for job_id in cancelled]
        if forgotten is not None:
            erase_some(self._database, forgotten)
        if abandoned is not None:
            erase_abandoned(self._database, abandoned)
        return any(unfinished) or forgotten is not None or abandoned is not None

    @operation
    def images_waiting(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """Return a page of the digests of images of unfinished batches, jobs that are still being posted included.

        `after` is 0 for the first page. With the digests comes the `after` of the next page, or None after the last.
        """
        return self._images(batches.c.id, batches.c["items"], ~batches.c.done, after, limit)

    @operation
    def images_to_retry(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """Return a page of the digests of images of failures that can be retried, as `images_waiting` does."""
        return self._images(failures.c.id, failures.c.item, failures.c.item.is_not(None), after, limit)

    @operation
    def images_in_doubt(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """Return a page of the digests of images of writes that may have to be repeated, as `images_waiting` does."""
        return self._images(doubts.c.id, doubts.c.item, doubts.c.item.is_not(None), after, limit)

    def _images(
        self, key: sa.Column[Any], packed: sa.Column[Any], chosen: sa.ColumnElement[bool], after: int, limit: int
    ) -> tuple[set[str], int | None]:
        query = sa.select(key, packed).where(key > after, chosen).order_by(key).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return set(_digests(items for _, items in rows)), rows[-1][0] if rows else None


def _first_jobs(*conditions: sa.ColumnElement[bool], limit: int = 1) -> sa.Select[str]:
    return sa.select(jobs.c.id).where(*conditions).limit(limit)


def _digests(packed: Iterable[str]) -> Iterator[str]:
    for items in packed:
        for _, document in unpack(items):
            yield from (image.digest for image in document.images if image.digest is not None)
