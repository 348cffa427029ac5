"""Aliases: other names of collections."""

from __future__ import annotations

import sqlalchemy as sa

from indexer.ledger.sql.database import again_on_deadlock
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import no_collection
from indexer.ledger.sql.schema import aliases, collections
from model.errors import Conflict, NotFound


class Aliases(Part):
    @operation
    @again_on_deadlock
    def set(self, name: str, collection: str) -> bool:
        """Point the alias at a collection from now on, and return whether the alias is new.

        Raises `NotFound` for an unknown collection, and `Conflict` if a collection has the alias's name.
        """
        with self._database.write() as connection:
            for checked_name, must_exist in ((collection, True), (name, False)):
                present = connection.execute(
                    sa.select(collections.c.name).where(collections.c.name == checked_name)
                ).first()
                if present is None and must_exist:
                    raise no_collection(checked_name)
                if present is not None and not must_exist:
                    raise Conflict(
                        f"there is a collection {name!r}; an alias needs a name of its own", field="alias", value=name
                    )
            switched = sa.update(aliases).where(aliases.c.name == name).values(collection=collection)
            if connection.execute(switched).rowcount:
                return False
            connection.execute(sa.insert(aliases).values(name=name, collection=collection))
            return True

    @operation
    def drop(self, name: str) -> None:
        """Delete an alias. Raises `NotFound`."""
        with self._database.write() as connection:
            if not connection.execute(sa.delete(aliases).where(aliases.c.name == name)).rowcount:
                raise NotFound(f"there is no alias {name!r}", field="alias", value=name)

    @operation
    def all(self, collection: str | None = None) -> dict[str, str]:
        """Return the collection of each alias, of all aliases or of those of one collection."""
        query = sa.select(aliases.c.name, aliases.c.collection).order_by(aliases.c.name)
        if collection is not None:
            query = query.where(aliases.c.collection == collection)
        with self._database.read() as connection:
            return {row.name: row.collection for row in connection.execute(query)}
