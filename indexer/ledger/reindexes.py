"""The other generation of a collection: its progress, the documents that it still lacks, and the switch. Each step is
one transaction.

Several processes may take a step at once. Each names the `version` of the row that it read; all but the first find
another version and return False.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.domain.collections import Collection, Reindex, ReindexState
from indexer.domain.jobs import Job, JobKind, JobState
from indexer.domain.points import Page
from indexer.ledger.mirroring import add_reindex_batch
from indexer.ledger.sql.counters import next_number
from indexer.ledger.sql.database import again_on_deadlock
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import as_job, find_job
from indexer.ledger.sql.schema import OF_REINDEX, batches, collections, failures, jobs, reindexes
from model.errors import Conflict, NotFound
from model.types import ModelInfo

_SWAPPED = ("generation", "fingerprint", "model", "dimensions")
_FIELDS = [reindexes.c[name] for name in Reindex.__dataclass_fields__]


class Reindexes(Part):
    @operation
    def find(self, collection: str) -> Reindex | None:
        with self._database.read() as connection:
            return _find(connection, collection)

    @operation
    def all(self) -> list[Reindex]:
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*_FIELDS).order_by(reindexes.c.collection)).all()
            return [_as_reindex(row) for row in rows]

    @operation
    def start(self, collection: Collection, model: ModelInfo, *, documents: int, max_failures: int) -> tuple[Job, bool]:
        """Return the job that fills a new generation, and whether the job is new.

        For a reindex in progress, set its `max_failures` and try its failures again. Raises `Conflict` while there is a
        generation of another model.
        """
        for _ in range(2):  # of two requests the database refuses the later, which then finds the other's
            try:
                return self._start(collection, model, documents, max_failures)
            except IntegrityError:
                continue
        raise NotFound(f"there is no collection {collection.name!r}", field="collection", value=collection.name)

    @again_on_deadlock
    def _start(self, collection: Collection, model: ModelInfo, documents: int, max_failures: int) -> tuple[Job, bool]:
        with self._database.write() as connection:
            if (existing := _find(connection, collection.name)) is not None:
                return self._again(connection, existing, model, max_failures), False
            now = self._database.now(connection)
            job_id = uuid.uuid4().hex
            job = {"id": job_id, "collection": collection.name, "kind": JobKind.REINDEX, "state": JobState.RUNNING}
            seq = next_number("seq", connection)
            inserted = sa.insert(jobs).values(**job, seq=seq, accepted=documents, created_at=now, updated_at=now)
            connection.execute(inserted)
            made_by = {"fingerprint": model.fingerprint, "model": model.name, "dimensions": model.dimensions}
            row = {"collection": collection.name, "state": ReindexState.FILLING, "job_id": job_id, **made_by}
            generation, bounds = (
                next_number("generation", connection),
                {"expected": documents, "max_failures": max_failures},
            )
            connection.execute(sa.insert(reindexes).values(**row, generation=generation, since=now, **bounds))
            return find_job(connection, job_id), True

    def _again(self, connection: sa.Connection, existing: Reindex, model: ModelInfo, max_failures: int) -> Job:
        job = find_job(connection, existing.job_id)
        if not existing.state.before_switch or existing.fingerprint != model.fingerprint or job.cancelling:
            raise Conflict(
                f"collection {existing.collection!r} has another generation already, of model {existing.model} "
                f"({existing.fingerprint[:12]}), {existing.state}: finish it, roll it back or cancel it first",
                field="collection",
                value=existing.collection,
            )
        values: dict[str, Any] = {"max_failures": max_failures}
        if existing.scanned and _unmended(connection, existing.job_id):
            values |= {"cursor": None, "scanned": False, "passes": 1}
        connection.execute(sa.update(reindexes).where(reindexes.c.collection == existing.collection).values(values))
        return job

    # --- the fill

    @operation
    def open_batches(self, reindex: Reindex) -> tuple[int, bool]:
        """Return the number of unfinished batches, and whether one of them waits for an unavailable dependency."""
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(batches.c.releases), 0))
        with self._database.read() as connection:
            count, releases = connection.execute(query.where(*_open_fill(reindex))).one()
            return int(count), bool(releases)

    @operation
    @again_on_deadlock
    def plan_page(self, reindex: Reindex, page: Page) -> bool:
        """Add the documents that the scan found after `reindex.cursor` to the fill, and delete the finished batches of
        the job."""
        with self._database.write() as connection:
            row = connection.execute(_at(sa.select(reindexes), reindex).with_for_update()).one_or_none()
            if row is None or row.scanned or row.cursor != reindex.cursor:
                return False
            done = sa.delete(batches).where(batches.c.job_id == reindex.job_id, batches.c.done)
            connection.execute(done)
            counted = min(len(page.document_ids), row.expected)
            add_reindex_batch(
                connection, reindex.job_id, reindex.collection, list(page.document_ids), row.expected, counted=counted
            )
            expected = row.expected - counted
            if page.after is None:  # fewer than there were: they were deleted meanwhile
                fewer = sa.update(jobs).where(jobs.c.id == reindex.job_id).values(accepted=jobs.c.accepted - expected)
                connection.execute(fewer)
                expected = 0
            values = {"cursor": page.after, "scanned": page.after is None, "expected": expected}
            connection.execute(_at(sa.update(reindexes), reindex).values(values))
            return True

    @operation
    def count_failed(self, reindex: Reindex) -> int:
        """Return the number of documents whose last attempt failed."""
        with self._database.read() as connection:
            return _unmended(connection, reindex.job_id)

    @operation
    def record_wait(self, reindex: Reindex, waiting_on: str | None) -> None:
        """Record what the job waits for."""
        state = JobState.WAITING if waiting_on else JobState.RUNNING
        with self._database.write() as connection:
            update = sa.update(jobs).where(jobs.c.id == reindex.job_id, jobs.c.finished_at.is_(None))
            differs = jobs.c.waiting_on.is_distinct_from(waiting_on)
            connection.execute(
                update.where(differs).values(
                    state=state, waiting_on=waiting_on, updated_at=self._database.now(connection)
                )
            )

    @operation
    def scan_again(self, reindex: Reindex) -> bool:
        """Start the scan again, because the switch found the two generations unequal. Writes go on."""
        again = {"cursor": None, "scanned": False, "passes": reindex.passes + 1}
        return self._move(reindex, ReindexState.FILLING, paused=False, **again)

    # --- the switch

    @operation
    def pause(self, reindex: Reindex) -> bool:
        """Pause the writes to the collection before a switch in either direction: from now on none of its batches is
        claimed."""
        forth = reindex.state is ReindexState.FILLING
        return self._move(reindex, ReindexState.SWITCHING if forth else ReindexState.ROLLING_BACK, paused=True)

    @operation
    def resume(self, reindex: Reindex) -> bool:
        """Resume the writes because the switch is postponed. A rollback stays ordered."""
        forth = reindex.state is ReindexState.SWITCHING
        return self._move(reindex, ReindexState.FILLING if forth else ReindexState.ROLLING_BACK, paused=False)

    @operation
    def writes_are_open(self, reindex: Reindex) -> bool:
        """Return whether a write to the collection is in progress or was interrupted, or documents remain to be
        filled."""
        writing = sa.or_(batches.c.lease.is_not(None), batches.c.touched)
        with self._database.read() as connection:
            return _any_batch(connection, reindex, sa.or_(OF_REINDEX, writing))

    @operation
    def writes_were_abandoned(self, reindex: Reindex) -> bool:
        """Return whether a worker died during a write to the collection and nobody has continued it. A pause would
        prevent that."""
        with self._database.read() as connection:
            nobodys = batches.c.lease_until <= self._database.now(connection)
            begun = sa.or_(batches.c.lease.is_not(None), batches.c.touched)
            return _any_batch(connection, reindex, sa.and_(~OF_REINDEX, begun, nobodys))

    @operation
    def switch(self, reindex: Reindex, keep_s: float) -> bool:
        """Let the other generation serve from now on and end its job. The previous generation is kept for `keep_s`."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            if not self._swap(connection, reindex, ReindexState.KEPT, now, now + keep_s):
                return False
            failed = find_job(connection, reindex.job_id).failed
            state = JobState.SUCCEEDED_WITH_FAILURES if failed else JobState.SUCCEEDED
            ended = {"state": state, "waiting_on": None, "updated_at": now, "finished_at": now}
            connection.execute(sa.update(jobs).where(jobs.c.id == reindex.job_id).values(ended))
            return True

    @operation
    def switch_back(self, reindex: Reindex, drop_after_s: float) -> bool:
        """Let the previous generation serve again. The other one is kept until the searches in progress are done with
        it."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            if not self._swap(connection, reindex, ReindexState.DROPPING, now, now + drop_after_s):
                return False
            connection.execute(sa.delete(batches).where(batches.c.job_id == reindex.job_id))
            return True

    def _swap(
        self, connection: sa.Connection, existing: Reindex, state: ReindexState, now: float, until: float
    ) -> bool:
        row = connection.execute(_at(sa.select(reindexes), existing).with_for_update()).one_or_none()
        if row is None:
            return False
        named = collections.c.name == existing.collection
        present = connection.execute(sa.select(collections).where(named).with_for_update()).one()
        replacing = {name: getattr(row, name) for name in _SWAPPED}
        current = {name: getattr(present, name) for name in _SWAPPED}
        connection.execute(sa.update(collections).where(named).values(**replacing, paused=False))
        connection.execute(
            _at(sa.update(reindexes), existing).values(**current, **_moved(existing, state, now), until=until)
        )
        return True

    # --- the end

    @operation
    def drop(self, reindex: Reindex, after_s: float = 0.0, *, failed: str | None = None) -> bool:
        """Give up the other generation. Before the switch this ends its job, as failed or else as cancelled."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            if not _move(connection, reindex, ReindexState.DROPPING, now, paused=False, until=now + after_s):
                return False
            connection.execute(sa.delete(batches).where(batches.c.job_id == reindex.job_id))
            if reindex.state.before_switch:
                _end(connection, reindex.job_id, JobState.FAILED if failed else JobState.CANCELLED, failed, now)
            return True

    @operation
    def expire(self, reindex: Reindex) -> bool:
        """End the time for which the previous generation is kept. The reindexer drops it once no search can still be
        reading it."""
        with self._database.write() as connection:
            ended = _at(sa.update(reindexes), reindex).where(reindexes.c.state == ReindexState.KEPT)
            return bool(connection.execute(ended.values(until=self._database.now(connection))).rowcount)

    @operation
    def forget(self, reindex: Reindex) -> bool:
        """Delete the row of a generation whose points have been deleted from the store."""
        with self._database.write() as connection:
            return bool(connection.execute(_at(sa.delete(reindexes), reindex)).rowcount)

    def _move(self, reindex: Reindex, state: ReindexState, *, paused: bool, **values: Any) -> bool:
        with self._database.write() as connection:
            return _move(connection, reindex, state, self._database.now(connection), paused=paused, **values)


def _find(connection: sa.Connection, collection: str) -> Reindex | None:
    row = connection.execute(sa.select(*_FIELDS).where(reindexes.c.collection == collection)).one_or_none()
    return None if row is None else _as_reindex(row)


def _as_reindex(row: sa.Row[Any]) -> Reindex:
    return Reindex(**{**row._mapping, "state": ReindexState(row.state)})


def _at(statement: Any, reindex: Reindex) -> Any:
    """Restrict a statement to the row as the caller read it: the same generation at the same version."""
    same = reindexes.c.generation == reindex.generation, reindexes.c.version == reindex.version
    return statement.where(reindexes.c.collection == reindex.collection, *same)


def _moved(existing: Reindex, state: ReindexState, now: float) -> dict[str, Any]:
    return {"state": state, "version": existing.version + 1, "since": now}


def _move(
    connection: sa.Connection, existing: Reindex, state: ReindexState, now: float, *, paused: bool, **values: Any
) -> bool:
    moved = _at(sa.update(reindexes), existing).values(**_moved(existing, state, now), **values)
    if not connection.execute(moved).rowcount:
        return False
    connection.execute(sa.update(collections).where(collections.c.name == existing.collection).values(paused=paused))
    return True


def _open_fill(reindex: Reindex) -> Sequence[sa.ColumnElement[bool]]:
    return OF_REINDEX, ~batches.c.done, batches.c.collection == reindex.collection


def _any_batch(connection: sa.Connection, reindex: Reindex, condition: sa.ColumnElement[bool]) -> bool:
    own = batches.c.collection == reindex.collection, ~batches.c.done
    return connection.execute(sa.select(batches.c.id).where(*own, condition).limit(1)).first() is not None


def _unmended(connection: sa.Connection, job_id: str) -> int:
    """Return the number of failures whose documents have not been tried again; they still have their items."""
    query = sa.select(sa.func.count()).select_from(failures)
    return int(connection.execute(query.where(failures.c.job_id == job_id, failures.c.item.is_not(None))).scalar_one())


def _end(connection: sa.Connection, job_id: str, state: JobState, reason: str | None, now: float) -> None:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).one()
    ended = {"state": state, "waiting_on": reason, "updated_at": now, "finished_at": now}
    connection.execute(
        sa.update(jobs).where(jobs.c.id == job_id).values(**ended, cancelled=row.cancelled + as_job(row).left)
    )
