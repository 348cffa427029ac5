"""Imports: jobs that read files, a step of planning first and then a step for each unit of the files.

    job, `growing` ─► planning: a step per unit, `accepted` and `unread` grow by its records ─► no longer growing
    step of a unit ─► some records: a batch of documents, failures of what cannot be read, `unread` less ─► … ─► done

Documents that were read become batches like posted ones, accepted as they are read: they have their place among other
writes, and all that holds for posted documents holds for them. The number of documents that are read and not yet
indexed is bounded.
"""

from __future__ import annotations

import json
import uuid
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from indexer.domain.jobs import Job, JobKind, JobState, Outcome, Status
from indexer.ledger.batches import suspects_are_due
from indexer.ledger.job_counts import count_outcomes
from indexer.ledger.sql import leases
from indexer.ledger.sql.counters import next_number
from indexer.ledger.sql.database import Database, again_on_deadlock
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import Item, find_job, pack, plain
from indexer.ledger.sql.schema import batches, failures, jobs, pending, steps
from indexer.ledger.submissions import same_job
from indexer.observability import tracing
from model.errors import NotFound

_waiting = jobs.c.accepted - jobs.c.indexed - jobs.c.skipped - jobs.c.failed - jobs.c.cancelled - jobs.c.unread


# Different reasons that are counted for a job; a file may have any number of columns.
_LEFT_OUT_REASONS = 50


@dataclass(slots=True)
class Step:
    """A leased step of an import: of planning where `unit` is None, else of reading that unit, of which `read` records
    are done.

    `only` are the positions to read in a retry. `crashes` counts readers that died or raised since the last progress,
    `releases` those that found something else unavailable. The holder keeps `read` in step with what it records in the
    ledger.
    """

    id: int
    job_id: str
    collection: str
    source: Mapping[str, Any]
    unit: Mapping[str, Any] | None
    only: tuple[int, ...] | None
    read: int
    size: int
    releases: int
    crashes: int
    lease: str


class Imports(Part):
    @operation
    def find(self, collection: str, key: str, body_hash: str) -> Job | None:
        """Return the job that a request with this `Idempotency-Key` made. Raises `Conflict` when that request had
        another body."""
        with self._database.read() as connection:
            return _known(connection, collection, key, body_hash)

    @operation
    def accept(
        self,
        collection: str,
        source: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        body_hash: str | None = None,
    ) -> Job:
        """Accept an import, and return its job. With a known key it is the job of the earlier request."""
        # Of two requests with one key the database refuses the later, which then finds the job of the other.
        for _ in range(2):
            try:
                return self._accept(collection, json.dumps(source), idempotency_key, body_hash)
            except IntegrityError:
                continue
        raise NotFound(f"there is no collection {collection!r}", field="collection", value=collection)

    @again_on_deadlock
    def _accept(self, collection: str, source: str, key: str | None, body_hash: str | None) -> Job:
        with self._database.write() as connection:
            if key is not None and (earlier := _known(connection, collection, key, body_hash)) is not None:
                return earlier
            now, job_id = self._database.now(connection), uuid.uuid4().hex
            row: dict[str, Any] = {"id": job_id, "collection": collection, "kind": JobKind.IMPORT, "source": source}
            row |= {"state": JobState.QUEUED, "seq": next_number("seq", connection), "growing": True}
            row |= {"created_at": now, "updated_at": now, "trace": tracing.here()}
            row |= {"idempotency_key": key, "body_hash": body_hash}
            connection.execute(sa.insert(jobs).values(row))
            connection.execute(sa.insert(steps).values(job_id=job_id))
            return find_job(connection, job_id)

    @operation
    @again_on_deadlock
    def claim(self, lease_s: float, ahead: int, without_jobs: Collection[str] = ()) -> Step | None:
        """Lease the first due step of a job with no more than `ahead` documents that are read and not done.

        No step is leased while a batch that may have killed its worker is tried alone: if a step killed the process
        meanwhile, the batch would be blamed for it.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            if suspects_are_due(connection, now):
                return None
            due = (
                sa.select(steps, jobs.c.collection, jobs.c.source)
                .join(jobs)
                .where(
                    ~steps.c.done,
                    steps.c.job_id.not_in(without_jobs),
                    jobs.c.seq.is_not(None),
                    ~jobs.c.cancelling,
                    leases.is_due(steps, now),
                    sa.or_(steps.c.unit.is_(None), _waiting <= ahead),
                )
                .order_by(steps.c.id)
                .limit(1)
                .with_for_update(of=steps, skip_locked=True)
            )
            row = connection.execute(due).one_or_none()
            if row is None:
                return None
            lease = leases.grant(row, lease_s, now)
            connection.execute(sa.update(steps).where(steps.c.id == row.id).values(lease))
            queued = sa.update(jobs).where(jobs.c.id == row.job_id, jobs.c.state == JobState.QUEUED)
            connection.execute(queued.values(state=JobState.RUNNING, updated_at=now))
            unbegun = sa.update(jobs).where(jobs.c.id == row.job_id, jobs.c.started_at.is_(None))
            connection.execute(unbegun.values(started_at=now))
            return _as_step(row, lease["lease"], lease["crashes"])

    @operation
    def steps_remain(self) -> bool:
        """Return whether any step is not done, due or not."""
        with self._database.read() as connection:
            return connection.execute(sa.select(steps.c.id).where(~steps.c.done).limit(1)).first() is not None

    @operation
    def renew(self, step: Step, lease_s: float) -> bool:
        """Renew the lease of a step. Return False when it was lost."""
        with self._database.write() as connection:
            return _change(connection, step, leases.renewal(lease_s, self._database.now(connection)))

    @operation
    @again_on_deadlock
    def add_units(self, step: Step, units: Sequence[Mapping[str, Any]], lease_s: float) -> bool:
        """Add the units that planning found; `first` and `count` of each say which records it has.

        Return False when the lease was lost or the job is being cancelled.
        """
        records = sum(unit["span"]["count"] for unit in units)
        with self._database.write() as connection:
            now = self._database.now(connection)
            grown = {"accepted": jobs.c.accepted + records, "unread": jobs.c.unread + records, "updated_at": now}
            if not (_is_held(connection, step) and _change_job(connection, step.job_id, grown)):
                return False
            _change(connection, step, {**leases.renewal(lease_s, now), "read": step.read + records, "crashes": 0})
            rows = [
                {"job_id": step.job_id, "unit": json.dumps(unit), "first": unit["first"], "size": unit["span"]["count"]}
                for unit in units
            ]
            connection.execute(sa.insert(steps), rows)
            return True

    @operation
    @again_on_deadlock
    def end_plan(self, step: Step, error: tuple[str, str] | None = None) -> bool:
        """End the planning: the job grows no more. An `error`, a code and a reason, is recorded as one failure of what
        was not planned."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            if not _change(connection, step, {**leases.NO_LEASE, "done": True}):
                return False
            failed = [Outcome(step.read, "", Status.FAILED, *error)] if error else []
            ended = {"growing": False, "accepted": jobs.c.accepted + len(failed)}
            connection.execute(sa.update(jobs).where(jobs.c.id == step.job_id).values(ended))
            _record_unreadable(connection, step, failed)
            count_outcomes(connection, step.job_id, failed, None, now)
            return True

    @operation
    @again_on_deadlock
    def add_records(
        self,
        step: Step,
        documents: Sequence[Item],
        unreadable: Sequence[Outcome],
        lease_s: float,
        left_out: Mapping[str, int] | None = None,
    ) -> int | None:
        """Add the next records of a unit, accepted after every write that was accepted before.

        Return how many documents of the job are read and not done; None when the lease was lost or the job is being
        cancelled.
        """
        count = len(documents) + len(unreadable)
        done = step.read + count >= step.size
        with self._database.write() as connection:
            seq, now = next_number("seq", connection), self._database.now(connection)
            read = {"unread": jobs.c.unread - count}
            if not (_is_held(connection, step) and _change_job(connection, step.job_id, read)):
                return None
            lease = leases.NO_LEASE if done else leases.renewal(lease_s, now)
            _change(connection, step, {**lease, "read": step.read + count, "done": done, "crashes": 0, "releases": 0})
            if documents:
                _add_batch(connection, step, documents, seq)
            _record_unreadable(connection, step, unreadable)
            if left_out:
                _count_left_out(connection, step.job_id, left_out)
            count_outcomes(connection, step.job_id, unreadable, None, now)
            return _documents_waiting(connection, step.job_id)

    @operation
    def documents_waiting(self, job_id: str) -> int:
        """Return how many documents of a job are read and not done."""
        with self._database.read() as connection:
            return _documents_waiting(connection, job_id)

    @operation
    @again_on_deadlock
    def release(self, step: Step, *, retry_after_s: float, waiting_on: str | None, crashed: bool = False) -> None:
        """Give a step back, because something it needs is unavailable, it raised (`crashed`), or the process stops. Its
        progress stays."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            values = leases.release(retry_after_s, now)
            waits = waiting_on is not None and not crashed
            values |= {"crashes": steps.c.crashes + int(crashed), "releases": steps.c.releases + int(waits)}
            if not _change(connection, step, values):
                return
            if waiting_on is not None:
                count_outcomes(connection, step.job_id, (), waiting_on, now)
            _cancel_steps(connection, step.job_id, now)


@again_on_deadlock
def cancel_unread(database: Database, job_id: str) -> None:
    """Cancel what is not yet read of an import that is being cancelled."""
    with database.write() as connection:
        _cancel_steps(connection, job_id, database.now(connection))


def import_files(connection: sa.Connection, job_id: str, positions: Sequence[int]) -> Callable[[int], str | None]:
    """Return a function from each of the positions, which are in order, to the name of the file that its record is
    in."""
    if not positions:
        return lambda _: None
    near = sa.or_(steps.c.only.is_not(None), steps.c.first + steps.c.size > positions[0])
    query = sa.select(steps.c.unit).where(steps.c.job_id == job_id, steps.c.first <= positions[-1], near)
    units = [json.loads(unit) for unit in connection.execute(query.order_by(steps.c.first)).scalars() if unit]
    starts = [unit["first"] for unit in units]

    def file_of(position: int) -> str | None:
        place = bisect_right(starts, position) - 1
        inside = place >= 0 and position < starts[place] + units[place]["span"]["count"]
        return _file_name(units[place]["uri"]) if inside else None

    return file_of


def read_again(database: Database, old: Job, new: Job) -> bool:
    """Add steps to the job `new` that read again the records of `old` that could not be read. Return whether there are
    any."""
    with database.write() as connection:
        unreadable = sa.select(failures.c.step_id, failures.c.position).where(
            failures.c.job_id == old.id, failures.c.step_id.is_not(None)
        )
        positions: dict[int, list[int]] = defaultdict(list)
        for step_id, position in connection.execute(unreadable.order_by(failures.c.position)):
            positions[step_id].append(position)
        units = sa.select(steps).where(steps.c.id.in_(positions), steps.c.unit.is_not(None)).order_by(steps.c.id)
        rows = [
            {"job_id": new.id, "unit": unit.unit, "first": unit.first, "size": len(positions[unit.id])}
            | {"only": json.dumps(positions[unit.id])}
            for unit in connection.execute(units).all()
        ]
        if rows:
            count = sum(int(row["size"]) for row in rows)
            grown = {"accepted": jobs.c.accepted + count, "unread": jobs.c.unread + count}
            query = sa.select(jobs.c.source).where(jobs.c.id == old.id)
            source = json.dumps(_without_left_out(connection.execute(query).scalar_one()))
            connection.execute(sa.update(jobs).where(jobs.c.id == new.id).values(**grown, source=source))
            connection.execute(sa.insert(steps), rows)
        return bool(rows)


def _known(connection: sa.Connection, collection: str, key: str, body_hash: str | None) -> Job | None:
    same = jobs.c.collection == collection, jobs.c.idempotency_key == key
    row = connection.execute(sa.select(jobs).where(*same)).one_or_none()
    return None if row is None else same_job(row, key, body_hash)


def _as_step(row: sa.Row[Any], lease: str, crashes: int) -> Step:
    return Step(
        id=row.id,
        job_id=row.job_id,
        collection=row.collection,
        source=_without_left_out(row.source),
        unit=None if row.unit is None else json.loads(row.unit),
        only=None if row.only is None else tuple(json.loads(row.only)),
        read=row.read,
        size=row.size,
        releases=row.releases,
        crashes=crashes,
        lease=lease,
    )


def _is_held(connection: sa.Connection, step: Step) -> bool:
    """Lock a step, and return whether the caller still has its lease.

    Steps are locked before jobs, as everywhere here.
    """
    return bool(leases.lock_held(connection, steps, {step.id: step.lease}))


def _change(connection: sa.Connection, step: Step, values: Mapping[str, Any]) -> bool:
    """Change a step unless its lease was lost, and return whether it was changed."""
    leased = sa.update(steps).where(steps.c.id == step.id, steps.c.lease == step.lease)
    return bool(connection.execute(leased.values(values)).rowcount)


def _count_left_out(connection: sa.Connection, job_id: str, left_out: Mapping[str, int]) -> None:
    """Add to the counts of fields and files that the documents of a job left out. They are stored with the job's
    source. The caller has locked the job's row."""
    source = json.loads(connection.execute(sa.select(jobs.c.source).where(jobs.c.id == job_id)).scalar_one())
    total = Counter(source.get("left_out", {}))
    for reason, count in left_out.items():
        total[reason if reason in total or len(total) < _LEFT_OUT_REASONS else "other things"] += count
    source["left_out"] = dict(total)
    connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(source=json.dumps(source)))


def _without_left_out(source: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(source).items() if key != "left_out"}


def _change_job(connection: sa.Connection, job_id: str, values: Mapping[str, Any]) -> bool:
    """Change a job unless it is being cancelled, and return whether it was changed."""
    running = sa.update(jobs).where(jobs.c.id == job_id, ~jobs.c.cancelling)
    return bool(connection.execute(running.values(values)).rowcount)


def _add_batch(connection: sa.Connection, step: Step, documents: Sequence[Item], seq: int) -> None:
    row = {"job_id": step.job_id, "collection": step.collection, "kind": JobKind.IMPORT, "seq": seq}
    added = sa.insert(batches).values(**row, size=len(documents), items=pack(documents)).returning(batches.c.id)
    batch_id = connection.execute(added).scalar_one()
    keys = dict.fromkeys(document.id for _, document in documents)
    rows = [{"batch_id": batch_id, "collection": step.collection, "document_id": key} for key in keys]
    connection.execute(sa.insert(pending), rows)


def _record_unreadable(connection: sa.Connection, step: Step, unreadable: Sequence[Outcome]) -> None:
    """Record failures without content. Those of a unit can be retried by reading it again."""
    unit = None if step.unit is None else step.id
    rows = [
        {"job_id": step.job_id, "collection": step.collection, "step_id": unit, "position": outcome.position}
        | {"document_id": plain(outcome.document_id), "code": outcome.code or "", "detail": plain(outcome.detail or "")}
        for outcome in unreadable
    ]
    if rows:
        connection.execute(sa.insert(failures), rows)


def _documents_waiting(connection: sa.Connection, job_id: str) -> int:
    return int(connection.execute(sa.select(_waiting).where(jobs.c.id == job_id)).scalar_one_or_none() or 0)


def _cancel_steps(connection: sa.Connection, job_id: str, now: float) -> None:
    """Cancel the steps that nobody has leased of a job that is being cancelled. What was not planned counts as one
    document."""
    if not connection.execute(sa.select(jobs.c.cancelling).where(jobs.c.id == job_id)).scalar():
        return
    free = steps.c.job_id == job_id, ~steps.c.done, leases.is_free(steps, now)
    rows = connection.execute(sa.select(steps).where(*free).order_by(steps.c.id).with_for_update()).all()
    if not rows:
        return
    ended = {**leases.NO_LEASE, "done": True}
    connection.execute(sa.update(steps).where(steps.c.id.in_([row.id for row in rows])).values(ended))
    unread = sum(row.size - row.read for row in rows if row.unit is not None)
    unplanned = sum(row.unit is None for row in rows)
    values: dict[str, Any] = {"cancelled": jobs.c.cancelled + unread + unplanned, "unread": jobs.c.unread - unread}
    values |= {"growing": False, "accepted": jobs.c.accepted + unplanned} if unplanned else {}
    connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(values))
    count_outcomes(connection, job_id, (), None, now)


def _file_name(uri: str) -> str:
    """Return the file name without the query of a URL, which may be secret."""
    return (urlsplit(uri).path if "://" in uri else uri).rpartition("/")[2]
