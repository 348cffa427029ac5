"""What the upkeep of a service asks of the ledger: whose turn a chore is, and which images are still to be indexed or retried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.ledger.database import Database
from indexer.ledger.rows import unpack
from indexer.ledger.schema import batches, chores, doubts, failures


class Upkeep(Database):
    def take_turn(self, chore: str, every_s: float) -> bool:
        """Whether the caller is to do it now: of all processes, and over their restarts, one in `every_s`. The first time it is not."""
        with self._write() as connection:
            now = self._now(connection)
            due = sa.update(chores).where(chores.c.name == chore, chores.c.begun_at <= now - every_s)
            if connection.execute(due.values(begun_at=now)).rowcount:
                return True
            if connection.execute(sa.select(chores).where(chores.c.name == chore)).first():
                return False
        try:
            with self._write() as connection:
                connection.execute(sa.insert(chores).values(name=chore, begun_at=now))
        except IntegrityError:
            pass  # another process was first
        return False

    def images_waiting(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """Digests of the images of unfinished batches, those of a job still being posted among them, and the next `after`."""
        return self._images(batches.c.id, batches.c["items"], ~batches.c.done, after, limit)

    def images_to_retry(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """The same of failures whose content is kept. Begin with 0; None after the last."""
        return self._images(failures.c.id, failures.c.item, failures.c.item.is_not(None), after, limit)

    def images_in_doubt(self, after: int, limit: int) -> tuple[set[str], int | None]:
        """The same of writes that may have to be repeated."""
        return self._images(doubts.c.id, doubts.c.item, doubts.c.item.is_not(None), after, limit)

    def _images(
        self, key: sa.Column[Any], packed: sa.Column[Any], wanted: sa.ColumnElement[bool], after: int, limit: int
    ) -> tuple[set[str], int | None]:
        with self._read() as connection:
            rows = connection.execute(
                sa.select(key, packed).where(key > after, wanted).order_by(key).limit(limit)
            ).all()
        return set(_digests(items for _, items in rows)), rows[-1][0] if rows else None


def _digests(packed: Iterable[str]) -> Iterable[str]:
    images = (document.image for one in packed for _, document in unpack(one))
    return (image.digest for image in images if image is not None and image.digest is not None)
