"""Collections in the ledger: their settings, their names, and how many of their documents are pending or failed."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.domain.collections import Collection, Counts
from indexer.domain.jobs import JobKind
from indexer.ledger.sql.database import again_on_deadlock
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import as_collection, collection_row, no_collection
from indexer.ledger.sql.schema import aliases, collections, failures, jobs
from model.errors import Conflict

# Made once, because each search runs it: to make it took 0.13 of 0.35 ms.
_SOUGHT = sa.bindparam("sought", type_=sa.Text)
_OF_ALIAS = sa.select(aliases.c.collection).where(aliases.c.name == _SOUGHT).scalar_subquery()
_RESOLVE = sa.select(collections).where(sa.or_(collections.c.name == _SOUGHT, collections.c.name == _OF_ALIAS))


class Collections(Part):
    @operation
    def create(self, collection: Collection) -> None:
        """Add a collection. Raises `Conflict` if the name is taken."""
        try:
            with self._database.write() as connection:
                if connection.execute(sa.select(aliases).where(aliases.c.name == collection.name)).first():
                    raise Conflict(
                        f"{collection.name!r} is an alias; delete that first", field="name", value=collection.name
                    )
                connection.execute(sa.insert(collections).values(**collection_row(collection)))
        except IntegrityError as error:
            raise Conflict(
                f"collection {collection.name!r} exists already", field="name", value=collection.name
            ) from error

    @operation
    def find(self, name: str) -> Collection:
        """Return the collection of this name. Raises `NotFound`."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(collections).where(collections.c.name == name)).one_or_none()
        if row is None:
            raise no_collection(name)
        return as_collection(row)

    @operation
    def all(self) -> list[Collection]:
        with self._database.read() as connection:
            return [
                as_collection(row) for row in connection.execute(sa.select(collections).order_by(collections.c.name))
            ]

    @operation
    @again_on_deadlock
    def change(self, name: str, change: Callable[[Collection], Collection]) -> Collection:
        """Replace a collection by what `change` returns for it. Raises `NotFound`, or what `change` raises."""
        with self._database.write() as connection:
            chosen = collections.c.name == name
            row = connection.execute(sa.select(collections).where(chosen).with_for_update()).one_or_none()
            if row is None:
                raise no_collection(name)
            changed = change(as_collection(row))
            connection.execute(sa.update(collections).where(chosen).values(**collection_row(changed)))
            return changed

    @operation
    @again_on_deadlock
    def drop(self, name: str) -> None:
        """Delete a collection with its jobs, batches and failures. Raises `NotFound`."""
        with self._database.write() as connection:
            if not connection.execute(sa.delete(collections).where(collections.c.name == name)).rowcount:
                raise no_collection(name)

    @operation
    def resolve(self, name: str) -> Collection:
        """Return the collection of this name, or the collection to which the alias of this name points. Raises
        `NotFound`."""
        with self._database.read() as connection:
            rows = connection.execute(_RESOLVE, {"sought": name}).all()
        chosen = next((row for row in rows if row.name == name), next(iter(rows), None))
        if chosen is None:
            raise no_collection(name)
        return as_collection(chosen)

    @operation
    def counts(self, collection: str | None = None) -> dict[str, Counts]:
        """Return the counts by collection, of one or of all. A collection without such documents is left out."""
        done = jobs.c.indexed + jobs.c.skipped + jobs.c.failed + jobs.c.cancelled
        of_one = [] if collection is None else [jobs.c.collection == collection]
        pending = (
            sa.select(jobs.c.collection, sa.func.sum(jobs.c.accepted - done))
            .where(
                *of_one,
                jobs.c.kind != JobKind.REINDEX,  # its documents are in the index
                jobs.c.finished_at.is_(None),
                jobs.c.seq.is_not(None),
            )
            .group_by(jobs.c.collection)
        )
        # What keeps its content is a document's last accepted write.
        failed = (
            sa.select(failures.c.collection, sa.func.count(sa.distinct(failures.c.document_id)))
            .where(
                *([] if collection is None else [failures.c.collection == collection]),
                failures.c.item.is_not(None),
                failures.c.job_id.not_in(sa.select(jobs.c.id).where(jobs.c.kind == JobKind.REINDEX)),
            )
            .group_by(failures.c.collection)
        )
        with self._database.read() as connection:
            waiting = {name: int(count) for name, count in connection.execute(pending)}
            without = {name: int(count) for name, count in connection.execute(failed)}
        return {name: Counts(waiting.get(name, 0), without.get(name, 0)) for name in waiting | without}
