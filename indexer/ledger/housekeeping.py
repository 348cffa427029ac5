"""What the upkeep of a service asks of the ledger: whose turn a chore is, and which images are still to be indexed or retried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.ledger.batches import cancel_some
from indexer.ledger.imports import cancel_unread
from indexer.ledger.operation import Part, operation
from indexer.ledger.repairs import Repairs
from indexer.ledger.rows import unpack
from indexer.ledger.schema import batches, chores, doubts, failures, jobs, reindexes, steps
from indexer.ledger.submissions import erase_abandoned, erase_some, left_open


class Housekeeping(Part):
    @operation
    def now(self) -> float:
        """Return the time in Unix seconds by the clock of the ledger."""
        with self._database.read() as connection:
            return self._database.now(connection)

    @operation
    def take_turn(self, chore: str, every_s: float) -> bool:
        """Whether the caller is to do it now: of all processes, and over their restarts, one in `every_s`. The first time it is not."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            due = sa.update(chores).where(chores.c.name == chore, chores.c.begun_at <= now - every_s)
            if connection.execute(due.values(begun_at=now)).rowcount:
                return True
            if connection.execute(sa.select(chores).where(chores.c.name == chore)).first():
                return False
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(chores).values(name=chore, begun_at=now))
        except IntegrityError:
            pass  # another process was first
        return False

    @operation
    def tidy(self, retention_s: float) -> bool:
        """A little of what nobody waits for, in small transactions: the rest of cancelled jobs, jobs that were never accepted,
        and jobs finished longer than `retention_s` ago. Whether there is more to do. Any number of processes may do it at once."""
        with self._database.read() as connection:
            cancelled = sa.select(jobs.c.id).where(jobs.c.cancelling, jobs.c.finished_at.is_(None))
            left = sa.select(steps.c.job_id).where(~steps.c.done, steps.c.job_id.in_(cancelled)).distinct().limit(10)
            unread = connection.execute(left).scalars().all()
        for job_id in unread:
            cancel_unread(self._database, job_id)
        with self._database.read() as connection:
            now = self._database.now(connection)
            accepted = jobs.c.seq.is_not(None), jobs.c.finished_at.is_(None)
            stopped = connection.execute(_first(jobs.c.cancelling, *accepted, limit=10)).scalars().all()
            needed = jobs.c.id.in_(sa.select(reindexes.c.job_id))  # its batches keep the previous generation up to date
            old = _first(jobs.c.finished_at < now - retention_s, ~needed)
            forgotten = connection.execute(old).scalar_one_or_none()
            abandoned = connection.execute(_first(*left_open(now))).scalar_one_or_none()
        Repairs(self._database).forget_doubts.blocking(retention_s)
        more = [cancel_some(self._database, job_id) for job_id in stopped]
        if forgotten is not None:
            erase_some(self._database, forgotten)
        if abandoned is not None:
            erase_abandoned(self._database, abandoned)
        return any(more) or forgotten is not None or abandoned is not None

    @operation
    def images_waiting(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """Digests of the images of unfinished batches, those of a job still being posted among them, and the next `after`."""
        return self._images(batches.c.id, batches.c["items"], ~batches.c.done, after, limit)

    @operation
    def images_to_retry(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """The same of failures whose content is kept. Begin with 0; None after the last."""
        return self._images(failures.c.id, failures.c.item, failures.c.item.is_not(None), after, limit)

    @operation
    def images_in_doubt(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """The same of writes that may have to be repeated."""
        return self._images(doubts.c.id, doubts.c.item, doubts.c.item.is_not(None), after, limit)

    def _images(
        self, key: sa.Column[Any], packed: sa.Column[Any], wanted: sa.ColumnElement[bool], after: int, limit: int
    ) -> tuple[set[str], int | None]:
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(key, packed).where(key > after, wanted).order_by(key).limit(limit)
            ).all()
        return set(_digests(items for _, items in rows)), rows[-1][0] if rows else None


def _first(*conditions: sa.ColumnElement[bool], limit: int = 1) -> sa.Select[str]:
    return sa.select(jobs.c.id).where(*conditions).limit(limit)


def _digests(packed: Iterable[str]) -> Iterable[str]:
    images = (document.image for one in packed for _, document in unpack(one))
    return (image.digest for image in images if image is not None and image.digest is not None)
