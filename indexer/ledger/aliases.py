"""Other names of collections, and how many of a collection's documents are in which state."""

from __future__ import annotations

import sqlalchemy as sa

from indexer.domain.collections import Collection, Counts
from indexer.domain.jobs import JobKind
from indexer.ledger.database import Database, again_on_deadlock
from indexer.ledger.rows import as_collection, no_collection
from indexer.ledger.schema import aliases, collections, failures, jobs
from model.errors import Conflict, NotFound


class Aliases(Database):
    def resolve(self, name: str) -> Collection:
        """The collection of this name, or the one that the alias of this name is for. Raises `NotFound`."""
        of_alias = sa.select(aliases.c.collection).where(aliases.c.name == name).scalar_subquery()
        named = sa.or_(collections.c.name == name, collections.c.name == of_alias)
        with self._read() as connection:
            rows = connection.execute(sa.select(collections).where(named)).all()
        found = next((row for row in rows if row.name == name), next(iter(rows), None))
        if found is None:
            raise no_collection(name)
        return as_collection(found)

    @again_on_deadlock
    def set_alias(self, name: str, collection: str) -> bool:
        """From here on the alias is for this collection; whether it is new. Raises `NotFound`, `Conflict` if a collection has the name."""
        with self._write() as connection:
            for other, wanted in ((collection, True), (name, False)):
                present = connection.execute(sa.select(collections.c.name).where(collections.c.name == other)).first()
                if present is None and wanted:
                    raise no_collection(other)
                if present is not None and not wanted:
                    raise Conflict(
                        f"there is a collection {name!r}; an alias needs a name of its own", field="alias", value=name
                    )
            switched = sa.update(aliases).where(aliases.c.name == name).values(collection=collection)
            if connection.execute(switched).rowcount:
                return False
            connection.execute(sa.insert(aliases).values(name=name, collection=collection))
            return True

    def drop_alias(self, name: str) -> None:
        """Raises `NotFound`."""
        with self._write() as connection:
            if not connection.execute(sa.delete(aliases).where(aliases.c.name == name)).rowcount:
                raise NotFound(f"there is no alias {name!r}", field="alias", value=name)

    def aliases(self, collection: str | None = None) -> dict[str, str]:
        """Collections by alias."""
        query = sa.select(aliases.c.name, aliases.c.collection).order_by(aliases.c.name)
        if collection is not None:
            query = query.where(aliases.c.collection == collection)
        with self._read() as connection:
            return {row.name: row.collection for row in connection.execute(query)}

    def counts(self, collection: str) -> Counts:
        done = jobs.c.indexed + jobs.c.skipped + jobs.c.failed + jobs.c.cancelled
        pending = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.accepted - done), 0)).where(
            jobs.c.collection == collection,
            jobs.c.kind != JobKind.REINDEX,  # its documents are in the index
            jobs.c.finished_at.is_(None),
            jobs.c.seq.is_not(None),
        )
        # What keeps its content is a document's last accepted write.
        failed = sa.select(sa.func.count(sa.distinct(failures.c.document_id))).where(
            failures.c.collection == collection,
            failures.c.item.is_not(None),
            failures.c.job_id.not_in(sa.select(jobs.c.id).where(jobs.c.kind == JobKind.REINDEX)),
        )
        with self._read() as connection:
            return Counts(int(connection.execute(pending).scalar_one()), int(connection.execute(failed).scalar_one()))
