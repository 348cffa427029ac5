"""Collections, jobs, batches and failures in SQL: what was accepted, what is done, what is not.

A job, its batches and its failures change in one transaction. One code path for SQLite (WAL, full sync), where one process has it for
itself, and PostgreSQL, where any number of them share it. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.ledger.database import again_on_deadlock
from indexer.ledger.jobs import Jobs
from indexer.ledger.schema import batches, collections, jobs
from indexer.ledger.upkeep import Upkeep
from indexer.records import Collection
from model.errors import Conflict, NotFound


class Ledger(Jobs, Upkeep):
    """The whole of it: collections here, jobs and their documents in the modules beside.

    `exclusive` promises that no other process has this database open: whatever one left in hand or half written is taken back as it
    is opened. Otherwise that waits until the leases run out, for their holders may be alive.
    """

    def __init__(self, url: str, *, exclusive: bool = False, clock: Callable[[], float] | None = None) -> None:
        super().__init__(url, clock=clock)
        if exclusive:
            self._take_over()

    def _take_over(self) -> None:
        with self._write() as connection:
            connection.execute(sa.delete(jobs).where(jobs.c.seq.is_(None)))
            back = {"lease": None, "lease_until": 0.0, "crashes": batches.c.crashes + 1}
            connection.execute(sa.update(batches).where(batches.c.lease.is_not(None)).values(back))

    def create_collection(self, collection: Collection) -> None:
        """Raises `Conflict` when the name is taken."""
        try:
            with self._write() as connection:
                connection.execute(sa.insert(collections).values(**asdict(collection)))
        except IntegrityError as error:
            raise Conflict(
                f"collection {collection.name!r} exists already", field="name", value=collection.name
            ) from error

    def collection(self, name: str) -> Collection:
        """Raises `NotFound`."""
        with self._read() as connection:
            row = connection.execute(sa.select(collections).where(collections.c.name == name)).one_or_none()
        if row is None:
            raise NotFound(f"there is no collection {name!r}", field="collection", value=name)
        return Collection(**row._mapping)

    def collections(self) -> list[Collection]:
        with self._read() as connection:
            return [
                Collection(**row._mapping)
                for row in connection.execute(sa.select(collections).order_by(collections.c.name))
            ]

    @again_on_deadlock
    def drop_collection(self, name: str) -> None:
        """With its jobs, batches and failures. Raises `NotFound`."""
        with self._write() as connection:
            if not connection.execute(sa.delete(collections).where(collections.c.name == name)).rowcount:
                raise NotFound(f"there is no collection {name!r}", field="collection", value=name)
