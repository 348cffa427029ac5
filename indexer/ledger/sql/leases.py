"""Leases: who holds a batch or a step of an import, until when, and when it may be claimed again.

The columns are those of `schema._lease_columns`; `batches` and `steps` both have them.

Times are wall-clock times, because several machines and restarts share them, and a wall clock may be set back or
forward by hours. So each time is stored with the length of its wait, and a wait is also over when its end is further
away than twice its length: then the clock was set back after the end was computed. No wait takes more than three times
its length, whatever the clock does, and a step of the clock that is shorter than the wait ends none. Where the clock is
set forward, waits end early: a worker whose lease ended notices that when it renews or finishes, as it does when it
stood still for too long.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

# How many lengths of a wait its end may be in the future: a longer time means that the clock was set back.
_LENGTHS = 2

NO_LEASE: Mapping[str, Any] = {"lease": None, "lease_until": 0.0, "lease_s": 0.0}


def is_past(end: sa.ColumnElement[float], length_s: sa.ColumnElement[float], now: float) -> sa.ColumnElement[bool]:
    """Return the condition that a wait of `length_s` seconds which was to end at `end` is over."""
    return sa.or_(end <= now, end > now + _LENGTHS * length_s)


def end_of_wait(end: sa.ColumnElement[float], length_s: sa.ColumnElement[float], now: float) -> sa.ColumnElement[float]:
    """Return the end of a wait, or 0 where it is over by the rule of `is_past`."""
    return sa.case((is_past(end, length_s, now), 0.0), else_=end)


def is_free(table: sa.Table, now: float) -> sa.ColumnElement[bool]:
    """Return the condition that no lease of a row is in force."""
    return is_past(table.c.lease_until, table.c.lease_s, now)


def is_due(table: sa.Table, now: float) -> sa.ColumnElement[bool]:
    """Return the condition that a row may be claimed: it is free, and it does not wait for another attempt."""
    return sa.and_(is_free(table, now), is_past(table.c.not_before, table.c.wait_s, now))


def grant(row: sa.Row[Any], lease_s: float, now: float) -> dict[str, Any]:
    """Return the values of a new lease of a row. A lease that ended without being given back counts as a crash."""
    return {"lease": uuid.uuid4().hex, "crashes": row.crashes + (row.lease is not None), **renewal(lease_s, now)}


def renewal(lease_s: float, now: float) -> dict[str, Any]:
    return {"lease_until": now + lease_s, "lease_s": lease_s}


def release(retry_after_s: float, now: float) -> dict[str, Any]:
    """Return the values of a row that is given back, to be claimed again after `retry_after_s` seconds."""
    return {**NO_LEASE, "not_before": now + retry_after_s, "wait_s": retry_after_s}


def lock_held(
    connection: sa.Connection, table: sa.Table, leases: Mapping[int, str], *columns: sa.Column[Any]
) -> dict[int, sa.Row[Any]]:
    """Lock rows by id, and return those whose lease is still the given one, with the columns."""
    query = sa.select(table.c.id, table.c.lease, *columns).where(table.c.id.in_(leases)).order_by(table.c.id)
    rows = connection.execute(query.with_for_update()).all()
    return {row.id: row for row in rows if row.lease == leases[row.id]}
