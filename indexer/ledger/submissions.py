"""The way into the ledger: a job is written batch by batch and then accepted, all of it at once (promise 3)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.domain.jobs import Job, JobKind, JobState
from indexer.ledger.database import Database, again_on_deadlock
from indexer.ledger.rows import Item, as_job, find_job, no_job, pack, unpack
from indexer.ledger.schema import batches, counters, failures, jobs, pending, steps
from indexer.observability import tracing
from model.errors import Conflict, InProgress, NotFound

# A job whose receiver has not been heard of for this long was left by a process that died.
OPEN_S = 60.0

# What an open job becomes before it is erased piece by piece: no batch is added to it any more, and nobody accepts it.
_TAKEN_BACK = {"cancelling": True, "idempotency_key": None, "updated_at": 0.0}

_PAGE = 64  # failures that become one batch of a retry
_RETRY_TRIES = 5


class _Overtaken(Exception):
    """A document of a retry was written again by others before the retry was accepted."""


class Accepting(Database):
    def open_job(
        self,
        collection: str,
        kind: JobKind,
        *,
        idempotency_key: str | None = None,
        retry_of: str | None = None,
    ) -> tuple[Job, bool]:
        """A job that is still being written: its batches are not claimed until `commit_job`. And whether it is new.

        With a known `idempotency_key` it is the job of before; raises `InProgress` when that is not yet whole. Whether it had the
        same body is asked by `check_body` when the body is read.
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
        with self._write() as connection:
            now = self._now(connection)
            if key is not None:
                mine = jobs.c.collection == values["collection"], jobs.c.idempotency_key == key
                # Left by a process that died: it gives up the key, and is tidied away later.
                connection.execute(sa.update(jobs).where(*mine, *left_open(now)).values(_TAKEN_BACK))
                known = connection.execute(sa.select(jobs).where(*mine)).one_or_none()
                if known is not None:
                    return _same_job(known, key, None), False
            job_id = uuid.uuid4().hex
            row = {"id": job_id, "state": JobState.QUEUED, "created_at": now, "updated_at": now, "idempotency_key": key}
            row["trace"] = tracing.here()
            connection.execute(sa.insert(jobs).values(**row, **values))
            return find_job(connection, job_id), True

    @again_on_deadlock
    def append(self, job_id: str, items: Sequence[Item]) -> None:
        """One more batch of an open job."""
        with self._write() as connection:
            counted = (
                sa.update(jobs)
                .where(*_still_open(job_id))
                .values(accepted=jobs.c.accepted + len(items), updated_at=self._now(connection))
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

    def keep_open(self, job_id: str) -> None:
        """It is still being received: an upload may be slow."""
        with self._write() as connection:
            connection.execute(sa.update(jobs).where(*_still_open(job_id)).values(updated_at=self._now(connection)))

    @again_on_deadlock
    def commit_job(self, job_id: str, *, body_hash: str | None = None) -> Job:
        """From here on the job is accepted (promise 3), and comes after every job that was accepted before (promise 4).

        `body_hash` is of what was posted under its idempotency key.
        """
        with self._write() as connection:
            seq = next_of("seq", connection)
            job, now = find_job(connection, job_id), self._now(connection)
            if (
                job.retry_of is not None
                and job.accepted - job.unread != connection.execute(_to_retry(job.retry_of, count=True)).scalar_one()
            ):
                raise _Overtaken
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

    def check_body(self, job_id: str, body_hash: str) -> None:
        """Raises `Conflict` when the job was accepted with another body, and `NotFound` when it is gone by now."""
        with self._read() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
        if row is None:
            raise no_job(job_id)
        _same_job(row, row.idempotency_key, body_hash)

    def abandon_job(self, job_id: str) -> None:
        """Takes an open job back, as if it had never been; one that is accepted stays."""
        with self._write() as connection:
            open_job = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.seq.is_(None))
            if not connection.execute(open_job.values(_TAKEN_BACK)).rowcount:
                return
        while self._erase_some(job_id):
            pass

    def retry_job(self, job_id: str) -> tuple[Job, bool]:
        """A new job of the failures of a finished one, and whether it is new: asked twice it is the same job.

        A failure whose document was written again later is left out, for the later write stands (promise 4). Raises `NotFound`,
        or `Conflict` when the job is not finished or has no failure to try again.
        """
        with self._read() as connection:
            old = find_job(connection, job_id)
        if old.kind is JobKind.REPAIR:
            raise Conflict(
                f"job {job_id} is a repair: post the documents again, or delete them, that it could not write"
            )
        if old.kind is JobKind.REINDEX:
            raise Conflict(f"job {job_id} is a reindex: ask for that again, and what failed is tried again")
        if not old.state.finished:
            raise Conflict(f"job {job_id} is {old.state}; what failed can be tried again when it is finished")
        for _ in range(_RETRY_TRIES):
            # No header can have a line break in it, so no caller's own key is taken.
            job, new = self.open_job(old.collection, old.kind, idempotency_key=f"retry\n{job_id}", retry_of=job_id)
            if not new:
                return job, False
            try:
                self._copy_failures(old, job)
                return self.commit_job(job.id), True
            except _Overtaken:
                self.abandon_job(job.id)
            except BaseException:
                self.abandon_job(job.id)
                raise
        raise Conflict(f"documents of job {job_id} are being written again just now; their last write stands")

    def _copy_failures(self, old: Job, new: Job) -> None:
        last = 0
        while True:
            with self._read() as connection:
                query = _to_retry(old.id).where(failures.c.id > last).order_by(failures.c.id).limit(_PAGE)
                page = connection.execute(query).all()
            if not page:
                break
            last = page[-1].id
            self.append(new.id, [unpack(row.item)[0] for row in page])
        if not last:
            raise Conflict(
                f"job {old.id} has nothing to try again: {old.failed} failed, and none of those is the last accepted "
                "write of its document with its content kept"
            )

    def _erase_left(self, job_id: str) -> None:
        """A little of an open job that nobody writes to any more."""
        with self._write() as connection:
            left = sa.update(jobs).where(jobs.c.id == job_id, *left_open(self._now(connection)))
            if not connection.execute(left.values(_TAKEN_BACK)).rowcount:
                return
        self._erase_some(job_id)

    @again_on_deadlock
    def _erase_some(self, job_id: str) -> bool:
        """One small transaction of deleting a job with all it has; whether there is more of it."""
        with self._write() as connection:
            for table, some in ((failures, 1_000), (batches, 200), (steps, 1_000)):
                chosen = sa.select(table.c.id).where(table.c.job_id == job_id).limit(some)
                if connection.execute(sa.delete(table).where(table.c.id.in_(chosen))).rowcount:
                    return True
            connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
            return False


def _still_open(job_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.id == job_id, jobs.c.seq.is_(None), ~jobs.c.cancelling


def left_open(now: float) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.seq.is_(None), jobs.c.updated_at < now - OPEN_S


def _to_retry(job_id: str, *, count: bool = False) -> sa.Select[Any]:
    """The failures of a job of which no later write was settled, is waiting or under way. Over time they only become fewer."""
    later = sa.select(sa.literal(1)).where(
        pending.c.collection == failures.c.collection,
        pending.c.document_id == failures.c.document_id,
        batches.c.id == pending.c.batch_id,
        jobs.c.id == batches.c.job_id,
        jobs.c.seq.is_not(None),
    )
    chosen = (sa.func.count(),) if count else (failures.c.id, failures.c.item)
    return sa.select(*chosen).where(failures.c.job_id == job_id, failures.c.item.is_not(None), ~later.exists())


def next_of(counter: str, connection: sa.Connection) -> int:
    """Its row is locked until the commit: jobs become visible in the order of their numbers, whoever accepts them."""
    counted = sa.update(counters).where(counters.c.name == counter).values(value=counters.c.value + 1)
    return int(connection.execute(counted.returning(counters.c.value)).scalar_one())


def _same_job(row: sa.Row[Any], key: str, body_hash: str | None) -> Job:
    if row.seq is None:
        raise InProgress(
            f"a request with Idempotency-Key {key!r:.100} is still being received", field="Idempotency-Key", value=key
        )
    if body_hash is not None and row.body_hash is not None and body_hash != row.body_hash:
        raise Conflict(f"Idempotency-Key {key!r:.100} was used with another body", field="Idempotency-Key", value=key)
    return as_job(row)
