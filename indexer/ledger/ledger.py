"""The ledger: collections, jobs, batches and failures in one SQL database."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.domain.collections import Collection
from indexer.ledger.aliases import Aliases
from indexer.ledger.database import again_on_deadlock
from indexer.ledger.housekeeping import Upkeep
from indexer.ledger.imports import Importing
from indexer.ledger.reindexes import Reindexing
from indexer.ledger.rows import as_collection, collection_row, no_collection
from indexer.ledger.schema import aliases, batches, collections, jobs, steps
from indexer.observability.watch import NOBODY, Watch
from model.errors import Conflict


class Ledger(Importing, Reindexing, Aliases, Upkeep):
    """The whole of it: collections here, jobs and their documents in the modules beside.

    `exclusive` promises that no other process has this database open: whatever one left in hand or half written is taken back as it
    is opened. Otherwise that waits until the leases run out, for their holders may be alive.
    """

    def __init__(
        self,
        url: str,
        *,
        exclusive: bool = False,
        clock: Callable[[], float] | None = None,
        watch: Watch = NOBODY,
    ) -> None:
        super().__init__(url, clock=clock, watch=watch)
        if exclusive:
            self._take_over()

    def _take_over(self) -> None:
        with self._write() as connection:
            connection.execute(sa.delete(jobs).where(jobs.c.seq.is_(None)))
            back = {"lease": None, "lease_until": 0.0, "crashes": batches.c.crashes + 1}
            connection.execute(sa.update(batches).where(batches.c.lease.is_not(None)).values(back))
            back["crashes"] = steps.c.crashes + 1
            connection.execute(sa.update(steps).where(steps.c.lease.is_not(None)).values(back))

    def create_collection(self, collection: Collection) -> None:
        """Raises `Conflict` when the name is taken."""
        try:
            with self._write() as connection:
                if connection.execute(sa.select(aliases).where(aliases.c.name == collection.name)).first():
                    raise Conflict(
                        f"{collection.name!r} is an alias; delete that first", field="name", value=collection.name
                    )
                connection.execute(sa.insert(collections).values(**collection_row(collection)))
        except IntegrityError as error:
            raise Conflict(
                f"collection {collection.name!r} exists already", field="name", value=collection.name
            ) from error

    def collection(self, name: str) -> Collection:
        """Raises `NotFound`."""
        with self._read() as connection:
            row = connection.execute(sa.select(collections).where(collections.c.name == name)).one_or_none()
        if row is None:
            raise no_collection(name)
        return as_collection(row)

    def collections(self) -> list[Collection]:
        with self._read() as connection:
            return [
                as_collection(row) for row in connection.execute(sa.select(collections).order_by(collections.c.name))
            ]

    @again_on_deadlock
    def change_collection(self, name: str, change: Callable[[Collection], Collection]) -> Collection:
        """The collection as `change` makes it out of what it is. Raises `NotFound`, or what `change` raises."""
        with self._write() as connection:
            chosen = collections.c.name == name
            row = connection.execute(sa.select(collections).where(chosen).with_for_update()).one_or_none()
            if row is None:
                raise no_collection(name)
            changed = change(as_collection(row))
            connection.execute(sa.update(collections).where(chosen).values(**collection_row(changed)))
            return changed

    @again_on_deadlock
    def drop_collection(self, name: str) -> None:
        """With its jobs, batches and failures. Raises `NotFound`."""
        with self._write() as connection:
            if not connection.execute(sa.delete(collections).where(collections.c.name == name)).rowcount:
                raise no_collection(name)
