"""Copying a whole ledger to an SQLite file and back, whichever database it is in. Backups use it, and moves from one
database to another.

Rows are copied, not files: PostgreSQL's own dump needs its tools and its version, and nothing else could read it. A
file with an earlier schema is migrated when it is opened, like any ledger.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from indexer.ledger.sql.database import Database
from indexer.ledger.sql.leases import NO_LEASE
from indexer.ledger.sql.migrations import newest
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.schema import collections, counters, jobs, metadata
from model.errors import Conflict

_CHUNK = 500  # rows; a batch of documents may have a megabyte


class Dump(Part):
    @operation
    def save(self, file: Path) -> int:
        """Write the ledger as it is at one moment to a new SQLite file, whoever writes meanwhile. Return its schema's
        version."""
        copy = Database(f"sqlite:///{file}")
        try:
            with self._database.snapshot() as source, copy.write() as target:
                _copy(source, target)
        finally:
            copy.close()
        return newest()

    @operation
    def is_empty(self) -> bool:
        with self._database.read() as connection:
            return not any(connection.execute(sa.select(table).limit(1)).first() for table in (collections, jobs))

    @operation
    def load(self, file: Path) -> None:
        """Load a saved ledger, all of it or nothing, without its leases. `file` may be changed: give a copy.

        Raises `Conflict` when there is anything in the ledger already.
        """
        if not self.is_empty.blocking():
            raise Conflict("the ledger has collections or jobs already: restore into an empty one")
        saved = Database(f"sqlite:///{file}")
        try:
            with saved.snapshot() as source, self._database.write() as target:
                _copy(source, target)
                for table in metadata.sorted_tables:
                    if "lease" in table.c:
                        target.execute(sa.update(table).values(NO_LEASE))
                if target.dialect.name == "postgresql":
                    _continue_numbers(target)
        finally:
            saved.close()


def _copy(source: sa.Connection, target: sa.Connection) -> None:
    target.execute(sa.delete(counters))  # the only rows of a new ledger
    for table in metadata.sorted_tables:
        rows = source.execution_options(yield_per=_CHUNK).execute(sa.select(table))
        for chunk in rows.mappings().partitions():
            target.execute(sa.insert(table), [dict(row) for row in chunk])


def _continue_numbers(connection: sa.Connection) -> None:
    """Advance PostgreSQL's sequences beyond the copied ids, since inserting rows with ids does not advance them."""
    for table in metadata.sorted_tables:
        if (column := table.autoincrement_column) is not None:
            newest = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(sa.select(sa.func.setval(sequence, newest, False)))
