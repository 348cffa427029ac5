"""The ledger: collections, jobs, batches and failures in one SQL database."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from indexer.ledger.aliases import Aliases
from indexer.ledger.batches import Batches
from indexer.ledger.collections import Collections
from indexer.ledger.dump import Dump
from indexer.ledger.housekeeping import Housekeeping
from indexer.ledger.imports import Imports
from indexer.ledger.jobs import Jobs
from indexer.ledger.reindexes import Reindexes
from indexer.ledger.repairs import Repairs
from indexer.ledger.retries import Retries
from indexer.ledger.sql.database import Database
from indexer.ledger.sql.leases import NO_LEASE
from indexer.ledger.sql.schema import batches, jobs, steps
from indexer.ledger.submissions import Submissions
from indexer.observability.watch import NOBODY, Watch


class Ledger:
    """The parts of the ledger over one database. Their operations are awaited; see `BoundOperation`.

    Safe to use from several threads and event loops. `close` closes the database.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.submissions = Submissions(database)
        self.aliases = Aliases(database)
        self.batches = Batches(database)
        self.collections = Collections(database)
        self.dump = Dump(database)
        self.imports = Imports(database)
        self.jobs = Jobs(database)
        self.reindexes = Reindexes(database)
        self.repairs = Repairs(database)
        self.housekeeping = Housekeeping(database, self.repairs)
        self.retries = Retries(database, self.submissions)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        exclusive: bool = False,
        clock: Callable[[], float] | None = None,
        watch: Watch = NOBODY,
    ) -> Ledger:
        """Open the ledger at a database URL, and create it where there is none.

        `exclusive` promises that no other process has this database open: leases and unfinished submissions of an
        earlier process are taken back at once. Otherwise they end with their leases, because their holders may be
        alive.
        """
        database = Database(url, clock=clock, watch=watch)
        if exclusive:
            try:
                take_over(database)
            except BaseException:
                database.close()
                raise
        return cls(database)

    def close(self) -> None:
        self.database.close()


def take_over(database: Database) -> None:
    """Take back what an earlier process left behind: nobody else has the database open."""
    with database.write() as connection:
        connection.execute(sa.delete(jobs).where(jobs.c.seq.is_(None)))
        for table in (batches, steps):
            released = {**NO_LEASE, "crashes": table.c.crashes + 1}
            connection.execute(sa.update(table).where(table.c.lease.is_not(None)).values(released))
