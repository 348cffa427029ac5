"""The ledger's counters: the numbers of jobs in the order of their acceptance, and of generations."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from indexer.ledger.sql.schema import counters


def next_number(counter: Literal["seq", "generation"], connection: sa.Connection) -> int:
    """Return the next number of a counter.

    Its row stays locked until the commit, so jobs become visible in the order of their numbers, whichever process
    accepts them.
    """
    counted = sa.update(counters).where(counters.c.name == counter).values(value=counters.c.value + 1)
    return int(connection.execute(counted.returning(counters.c.value)).scalar_one())
