"""Collections, jobs, batches and failures in SQL: what was accepted, what is done, what is not.

A job, its batches and its failures change in one transaction. SQLite here (WAL, full sync); plain SQLAlchemy Core, so that PostgreSQL
is another URL. Safe to use from several threads. Times are Unix seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from indexer.ledger_rows import as_batch, as_job, pack
from indexer.ledger_schema import batches, collections, connect, failures, jobs, pending
from indexer.records import Batch, Collection, Document, Failure, Job, JobKind, JobState, Outcome, Status
from model.errors import Conflict, DependencyUnavailable, NotFound

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 4  # of `call`; SQLite has one writer, more would only wait


class Ledger:
    """Opened by one process where it is SQLite; leases found then are of a process that died, and are taken back.

    Every method blocks; `call` runs one off the event loop, in threads that no slow name lookup can hold up.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._engine = connect(url)
        self._writes = self._engine.execution_options(immediate=True)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ledger")
        with self._write() as connection:
            connection.execute(sa.delete(jobs).where(jobs.c.seq.is_(None)))
            connection.execute(sa.update(batches).values(lease=None, lease_until=0.0).where(batches.c.lease_until > 0))

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`await ledger.call(ledger.job, job_id)`"""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(method, *args, **kwargs))

    # --- collections

    def create_collection(self, collection: Collection) -> None:
        """Raises `Conflict` when the name is taken."""
        try:
            with self._write() as connection:
                connection.execute(sa.insert(collections).values(**asdict(collection)))
        except IntegrityError as error:
            raise Conflict(
                f"collection {collection.name!r} exists already", field="name", value=collection.name
            ) from error

    def collection(self, name: str) -> Collection:
        """Raises `NotFound`."""
        with self._read() as connection:
            row = connection.execute(sa.select(collections).where(collections.c.name == name)).one_or_none()
        if row is None:
            raise NotFound(f"there is no collection {name!r}", field="collection", value=name)
        return Collection(**row._mapping)

    def collections(self) -> list[Collection]:
        with self._read() as connection:
            return [
                Collection(**row._mapping)
                for row in connection.execute(sa.select(collections).order_by(collections.c.name))
            ]

    def drop_collection(self, name: str) -> None:
        """With its jobs, batches and failures. Raises `NotFound`."""
        with self._write() as connection:
            if not connection.execute(sa.delete(collections).where(collections.c.name == name)).rowcount:
                raise NotFound(f"there is no collection {name!r}", field="collection", value=name)

    # --- accepting

    def open_job(
        self, collection: str, kind: JobKind, *, idempotency_key: str | None = None, body_hash: str | None = None
    ) -> tuple[Job, bool]:
        """A job that is still being written: its batches are not claimed until `commit_job`. And whether it is new.

        With a known `idempotency_key` it is the job of before; raises `Conflict` when that had another body or is not yet whole.
        """
        now = self._clock()
        with self._write() as connection:
            if idempotency_key is not None:
                known = connection.execute(
                    sa.select(jobs).where(jobs.c.collection == collection, jobs.c.idempotency_key == idempotency_key)
                ).one_or_none()
                if known is not None:
                    return _same_job(known, idempotency_key, body_hash), False
            identifier = uuid.uuid4().hex
            try:
                connection.execute(
                    sa.insert(jobs).values(
                        id=identifier,
                        collection=collection,
                        kind=kind,
                        state=JobState.QUEUED,
                        created_at=now,
                        updated_at=now,
                        idempotency_key=idempotency_key,
                        body_hash=body_hash,
                    )
                )
            except IntegrityError as error:
                raise NotFound(
                    f"there is no collection {collection!r}", field="collection", value=collection
                ) from error
            return _job(connection, identifier), True

    def append(self, job_id: str, items: Sequence[tuple[int, Document]]) -> None:
        """One more batch of an open job."""
        with self._write() as connection:
            job = _job(connection, job_id)
            result = connection.execute(
                sa.insert(batches).values(
                    job_id=job_id, collection=job.collection, kind=job.kind, size=len(items), items=pack(items)
                )
            )
            batch_id = result.inserted_primary_key[0] if result.inserted_primary_key else None
            rows = [
                {"batch_id": batch_id, "collection": job.collection, "document_id": key}
                for key in {d.id for _, d in items}
            ]
            connection.execute(sa.insert(pending), rows)
            connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(accepted=jobs.c.accepted + len(items)))

    def commit_job(self, job_id: str) -> Job:
        """From here on the job is accepted (promise 3), and comes after every job that was accepted before."""
        with self._write() as connection:
            job = _job(connection, job_id)
            following = sa.select(sa.func.coalesce(sa.func.max(jobs.c.seq), 0) + 1).scalar_subquery()
            state = JobState.QUEUED if job.accepted else JobState.SUCCEEDED
            connection.execute(
                sa.update(jobs).where(jobs.c.id == job_id).values(seq=following, state=state, updated_at=self._clock())
            )
            return _job(connection, job_id)

    def abandon_job(self, job_id: str) -> None:
        """Takes an open job back, as if it had never been; one that is accepted stays."""
        with self._write() as connection:
            connection.execute(sa.delete(jobs).where(jobs.c.id == job_id, jobs.c.seq.is_(None)))

    # --- reading

    def job(self, job_id: str) -> Job:
        """Raises `NotFound`."""
        with self._read() as connection:
            return _job(connection, job_id)

    def jobs(
        self, *, collection: str | None = None, states: Iterable[JobState] = (), limit: int = 50, offset: int = 0
    ) -> list[Job]:
        """Newest first."""
        query = sa.select(jobs).where(jobs.c.seq.is_not(None)).order_by(jobs.c.seq.desc()).limit(limit).offset(offset)
        if collection is not None:
            query = query.where(jobs.c.collection == collection)
        if wanted := list(states):
            query = query.where(jobs.c.state.in_(wanted))
        with self._read() as connection:
            return [as_job(row) for row in connection.execute(query)]

    def failures(self, job_id: str, *, limit: int = 100, offset: int = 0) -> list[Failure]:
        """By position."""
        query = (
            sa.select(failures)
            .where(failures.c.job_id == job_id)
            .order_by(failures.c.position)
            .limit(limit)
            .offset(offset)
        )
        with self._read() as connection:
            return [
                Failure(row.job_id, row.position, row.document_id, row.code, row.detail)
                for row in connection.execute(query)
            ]

    def results(self, job_id: str) -> list[Outcome]:
        """What became of each document so far, by position."""
        with self._read() as connection:
            rows = connection.execute(sa.select(batches.c.outcomes).where(batches.c.job_id == job_id)).scalars()
            found = [
                Outcome(position, key, Status(status), code, detail)
                for row in rows
                for position, key, status, code, detail in json.loads(row)
            ]
        return sorted(found, key=lambda outcome: outcome.position)

    def pending_documents(self) -> int:
        """Accepted and not yet indexed, skipped or failed."""
        open_ones = sa.select(
            sa.func.coalesce(sa.func.sum(jobs.c.accepted - jobs.c.indexed - jobs.c.skipped - jobs.c.failed), 0)
        )
        with self._read() as connection:
            return int(connection.execute(open_ones.where(jobs.c.seq.is_not(None))).scalar_one())

    # --- working

    def claim(self, limit: int, lease_s: float) -> list[Batch]:
        """Up to `limit` batches that are due, oldest first, leased to the caller.

        A batch waits while one accepted earlier still has a document of the same id to write, so that writes of a document
        happen in the order they were accepted, whatever the number of workers (promise 4).
        """
        now = self._clock()
        due = (
            sa.select(batches)
            .join(jobs)
            .where(
                batches.c.done.is_(False),
                jobs.c.seq.is_not(None),
                batches.c.lease_until <= now,
                batches.c.not_before <= now,
                ~_earlier_write(),
            )
            .order_by(
                batches.c.id
            )  # the order of an index: with 100,000 documents waiting, sorting takes 46 ms a claim
            .limit(limit)
        )
        with self._write() as connection:
            claimed = [as_batch(row, uuid.uuid4().hex) for row in connection.execute(due)]
            for batch in claimed:
                leased = {"lease": batch.lease, "lease_until": now + lease_s}
                connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(leased))
                connection.execute(
                    sa.update(jobs)
                    .where(jobs.c.id == batch.job_id, jobs.c.state == JobState.QUEUED)
                    .values(state=JobState.RUNNING, updated_at=now)
                )
        return claimed

    def due_at(self) -> float | None:
        """When the next batch that is not due yet will be; None when there is none."""
        later = sa.case(
            (batches.c.not_before > batches.c.lease_until, batches.c.not_before), else_=batches.c.lease_until
        )
        query = sa.select(sa.func.min(later)).where(batches.c.done.is_(False), later > self._clock())
        with self._read() as connection:
            value = connection.execute(query).scalar_one()
        return None if value is None else float(value)

    def renew(self, batch: Batch, lease_s: float) -> bool:
        """False when the lease was lost: the batch is another's by now, or gone with its collection."""
        renewed = sa.update(batches).where(*_held(batch)).values(lease_until=self._clock() + lease_s)
        with self._write() as connection:
            return bool(connection.execute(renewed).rowcount)

    def finish(
        self, batch: Batch, outcomes: Sequence[Outcome], *, retry_after_s: float = 0.0, waiting_on: str | None = None
    ) -> bool:
        """Records what became of a batch's documents. Those without an outcome stay, as one attempt more, to be tried again.

        False, and nothing recorded, when the lease was lost.
        """
        now = self._clock()
        settled = {outcome.position for outcome in outcomes}
        rest = [(position, document) for position, document in batch.items if position not in settled]
        with self._write() as connection:
            row = connection.execute(sa.select(batches.c.outcomes).where(*_held(batch))).one_or_none()
            if row is None:
                return False
            compact = [[o.position, o.document_id, o.status, o.code, o.detail] for o in outcomes]
            connection.execute(
                sa.update(batches)
                .where(batches.c.id == batch.id)
                .values(
                    items=pack(rest),
                    size=len(rest),
                    done=not rest,
                    outcomes=json.dumps([*json.loads(row.outcomes), *compact]),
                    attempts=batch.attempts + 1,
                    lease=None,
                    lease_until=0.0,
                    not_before=now + retry_after_s,
                )
            )
            left = {document.id for _, document in rest}
            gone = [document.id for _, document in batch.items if document.id not in left]
            if gone:
                connection.execute(
                    sa.delete(pending).where(pending.c.batch_id == batch.id, pending.c.document_id.in_(gone))
                )
            _record_failures(connection, batch.job_id, outcomes)
            _settle(connection, batch.job_id, outcomes, waiting_on if rest else None, now)
        return True

    def release(
        self, batch: Batch, *, retry_after_s: float, waiting_on: str | None, whole_collection: bool = False
    ) -> None:
        """Gives a batch back untouched: something it needs does not answer, or the worker stops. Not an attempt.

        `whole_collection` holds up what else of this kind waits there: else each batch would be claimed to meet the same trouble.
        """
        now = self._clock()
        not_before = now + retry_after_s
        releases = batch.releases + (waiting_on is not None)
        back = {"lease": None, "lease_until": 0.0, "not_before": not_before, "releases": releases}
        with self._write() as connection:
            if not connection.execute(sa.update(batches).where(*_held(batch)).values(back)).rowcount:
                return
            if whole_collection:
                same = batches.c.collection == batch.collection, batches.c.kind == batch.kind
                sooner = batches.c.done.is_(False), batches.c.lease.is_(None), batches.c.not_before < not_before
                connection.execute(sa.update(batches).where(*same, *sooner).values(not_before=not_before))
            _settle(connection, batch.job_id, (), waiting_on, now)

    # --- connections

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _our_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with _our_errors(), self._writes.begin() as connection:
            yield connection


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # the caller's: it says what was taken or missing
    except SQLAlchemyError as error:
        raise DependencyUnavailable(f"the ledger's database does not answer: {type(error).__name__}") from error


def _held(batch: Batch) -> tuple[sa.ColumnElement[bool], ...]:
    return batches.c.id == batch.id, batches.c.lease == batch.lease


def _earlier_write() -> sa.ColumnElement[bool]:
    """Whether a batch accepted earlier than the row of the query still has a document of the same id to write."""
    mine, other = pending.alias(), pending.alias()
    other_batch, other_job = batches.alias(), jobs.alias()
    return (
        sa.select(sa.literal(1))
        .select_from(
            mine.join(
                other, sa.and_(other.c.collection == mine.c.collection, other.c.document_id == mine.c.document_id)
            )
            .join(other_batch, other_batch.c.id == other.c.batch_id)
            .join(other_job, other_job.c.id == other_batch.c.job_id)
        )
        .where(
            mine.c.batch_id == batches.c.id,
            other.c.batch_id != batches.c.id,
            sa.or_(
                other_job.c.seq < jobs.c.seq, sa.and_(other_job.c.seq == jobs.c.seq, other.c.batch_id < batches.c.id)
            ),
        )
        .exists()
    )


def _record_failures(connection: sa.Connection, job_id: str, outcomes: Sequence[Outcome]) -> None:
    rows = [
        {
            "job_id": job_id,
            "position": o.position,
            "document_id": o.document_id,
            "code": o.code or "",
            "detail": o.detail or "",
        }
        for o in outcomes
        if o.status is Status.FAILED
    ]
    if rows:
        connection.execute(sa.insert(failures), rows)


def _settle(
    connection: sa.Connection, job_id: str, outcomes: Sequence[Outcome], waiting_on: str | None, now: float
) -> None:
    """Adds a batch's counts to its job and moves the job's state on."""
    counts = {status.value: sum(outcome.status is status for outcome in outcomes) for status in Status}
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values({name: jobs.c[name] + count for name, count in counts.items()})
    )
    job = _job(connection, job_id)
    state = JobState.WAITING if waiting_on else JobState.RUNNING
    if job.indexed + job.skipped + job.failed == job.accepted:
        state = _final(job)
    connection.execute(
        sa.update(jobs).where(jobs.c.id == job_id).values(state=state, waiting_on=waiting_on, updated_at=now)
    )


def _final(job: Job) -> JobState:
    if not job.failed:
        return JobState.SUCCEEDED
    return JobState.FAILED if job.failed == job.accepted else JobState.SUCCEEDED_WITH_FAILURES


def _same_job(row: sa.Row[Any], key: str, body_hash: str | None) -> Job:
    if row.seq is None:
        raise Conflict(
            f"a request with Idempotency-Key {key!r:.100} is still being received", field="Idempotency-Key", value=key
        )
    if body_hash is not None and row.body_hash is not None and body_hash != row.body_hash:
        raise Conflict(f"Idempotency-Key {key!r:.100} was used with another body", field="Idempotency-Key", value=key)
    return as_job(row)


def _job(connection: sa.Connection, job_id: str) -> Job:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id!r:.100}", field="job", value=job_id)
    return as_job(row)
