"""Submissions: a job is written batch by batch and then accepted as a whole."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.domain.jobs import Job, JobKind, JobState
from indexer.ledger.sql.counters import next_number
from indexer.ledger.sql.database import Database, again_on_deadlock
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import Item, as_job, find_job, no_job, pack
from indexer.ledger.sql.schema import batches, failures, jobs, pending, steps
from indexer.observability import tracing
from model.errors import Conflict, InProgress, NotFound

# A job whose receiver has not been heard of for this long was left by a process that died.
OPEN_S = 60.0

# What an open job becomes before it is erased piece by piece: no batch is added to it any more, and nobody accepts it.
_TAKEN_BACK = {"cancelling": True, "idempotency_key": None, "updated_at": 0.0}


class Overtaken(Exception):
    """A document of a retry was written again by another job before the retry was accepted."""


class Submissions(Part):
    @operation
    def open(
        self,
        collection: str,
        kind: JobKind,
        *,
        idempotency_key: str | None = None,
        retry_of: str | None = None,
    ) -> tuple[Job, bool]:
        """Open a job, and return it and whether it is new. Its batches are not claimed until `commit`.

        With a known `idempotency_key`, return the earlier job; raises `InProgress` while that one is still being
        received. `check_body` compares the bodies once this one has been read.
        """
        values = {"collection": collection, "kind": kind, "retry_of": retry_of}
        for _ in range(
            2
        ):  # of two requests with one key the database refuses the later, which then finds the other's job
            try:
                return self._open(idempotency_key, values)
            except IntegrityError:
                continue
        raise NotFound(f"there is no collection {collection!r}", field="collection", value=collection)

    @again_on_deadlock
    def _open(self, key: str | None, values: dict[str, Any]) -> tuple[Job, bool]:
        with self._database.write() as connection:
            now = self._database.now(connection)
            if key is not None:
                same_key = jobs.c.collection == values["collection"], jobs.c.idempotency_key == key
                # Left by a process that died: it gives up the key, and is tidied away later.
                connection.execute(sa.update(jobs).where(*same_key, *left_open(now)).values(_TAKEN_BACK))
                earlier = connection.execute(sa.select(jobs).where(*same_key)).one_or_none()
                if earlier is not None:
                    return same_job(earlier, key, None), False
            job_id = uuid.uuid4().hex
            row = {"id": job_id, "state": JobState.QUEUED, "created_at": now, "updated_at": now, "idempotency_key": key}
            row["trace"] = tracing.here()
            connection.execute(sa.insert(jobs).values(**row, **values))
            return find_job(connection, job_id), True

    @operation
    @again_on_deadlock
    def append(self, job_id: str, items: Sequence[Item]) -> None:
        """Add a batch to an open job."""
        with self._database.write() as connection:
            counted = (
                sa.update(jobs)
                .where(*_still_open(job_id))
                .values(accepted=jobs.c.accepted + len(items), updated_at=self._database.now(connection))
                .returning(jobs.c.collection, jobs.c.kind)
            )
            job = connection.execute(counted).one_or_none()
            if job is None:
                raise no_job(job_id)
            row = {"job_id": job_id, "collection": job.collection, "kind": job.kind}
            added = sa.insert(batches).values(**row, size=len(items), items=pack(items)).returning(batches.c.id)
            batch_id = connection.execute(added).scalar_one()
            keys = dict.fromkeys(document.id for _, document in items)
            rows = [{"batch_id": batch_id, "collection": job.collection, "document_id": key} for key in keys]
            connection.execute(sa.insert(pending), rows)

    @operation
    def keep_open(self, job_id: str) -> None:
        """Record that a job is still being received, since an upload may be slow."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(jobs).where(*_still_open(job_id)).values(updated_at=self._database.now(connection))
            )

    @operation
    @again_on_deadlock
    def commit(self, job_id: str, *, body_hash: str | None = None) -> Job:
        """Accept a job. It comes after every job that was accepted before.

        `body_hash` is the hash of the body that was posted under the job's idempotency key.
        """
        with self._database.write() as connection:
            seq = next_number("seq", connection)
            job, now = find_job(connection, job_id), self._database.now(connection)
            if (
                job.retry_of is not None
                and job.accepted - job.unread
                != connection.execute(failures_to_retry(job.retry_of, count=True)).scalar_one()
            ):
                raise Overtaken
            empty = job.accepted == 0
            committed = (
                sa.update(jobs)
                .where(*_still_open(job_id))
                .values(
                    seq=seq,
                    body_hash=body_hash,
                    state=JobState.SUCCEEDED if empty else JobState.QUEUED,
                    updated_at=now,
                    finished_at=now if empty else None,
                )
            )
            if not connection.execute(committed).rowcount:
                raise no_job(job_id)
            return find_job(connection, job_id)

    @operation
    def check_body(self, job_id: str, body_hash: str) -> None:
        """Compare with the body that the job was accepted with. Raises `Conflict` if it was another, and `NotFound` if
        the job no longer exists."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
        if row is None:
            raise no_job(job_id)
        same_job(row, row.idempotency_key, body_hash)

    @operation
    def abandon(self, job_id: str) -> None:
        """Delete an open job as if it had never been opened. An accepted job stays."""
        with self._database.write() as connection:
            open_job = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.seq.is_(None))
            if not connection.execute(open_job.values(_TAKEN_BACK)).rowcount:
                return
        while erase_some(self._database, job_id):
            pass


def erase_abandoned(database: Database, job_id: str) -> None:
    """Erase a part of an open job to which nobody writes any more."""
    with database.write() as connection:
        abandoned = sa.update(jobs).where(jobs.c.id == job_id, *left_open(database.now(connection)))
        if not connection.execute(abandoned.values(_TAKEN_BACK)).rowcount:
            return
    erase_some(database, job_id)


@again_on_deadlock
def erase_some(database: Database, job_id: str) -> bool:
    """Delete a part of a job and of all that belongs to it in one small transaction, and return whether there is
    more."""
    with database.write() as connection:
        for table, some in ((failures, 1_000), (batches, 200), (steps, 1_000)):
            chosen = sa.select(table.c.id).where(table.c.job_id == job_id).limit(some)
            if connection.execute(sa.delete(table).where(table.c.id.in_(chosen))).rowcount:
                return True
        connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
        return False


def _still_open(job_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.id == job_id, jobs.c.seq.is_(None), ~jobs.c.cancelling


def left_open(now: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions of an open job that nobody writes to any more, or whose clock was set back (see
    `leases`)."""
    updated_at = jobs.c.updated_at
    return jobs.c.seq.is_(None), sa.or_(updated_at < now - OPEN_S, updated_at > now + OPEN_S)


def failures_to_retry(job_id: str, *, count: bool = False) -> sa.Select[Any]:
    """Select the failures of a job without a later write that is settled, waiting or in progress. Their number only
    decreases over time."""
    later = sa.select(sa.literal(1)).where(
        pending.c.collection == failures.c.collection,
        pending.c.document_id == failures.c.document_id,
        batches.c.id == pending.c.batch_id,
        jobs.c.id == batches.c.job_id,
        jobs.c.seq.is_not(None),
    )
    chosen = (sa.func.count(),) if count else (failures.c.id, failures.c.item)
    return sa.select(*chosen).where(failures.c.job_id == job_id, failures.c.item.is_not(None), ~later.exists())


def same_job(row: sa.Row[Any], key: str, body_hash: str | None) -> Job:
    if row.seq is None:
        raise InProgress(
            f"a request with Idempotency-Key {key!r:.100} is still being received", field="Idempotency-Key", value=key
        )
    if body_hash is not None and row.body_hash is not None and body_hash != row.body_hash:
        raise Conflict(f"Idempotency-Key {key!r:.100} was used with another body", field="Idempotency-Key", value=key)
    return as_job(row)
