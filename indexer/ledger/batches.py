"""Batches of documents: workers claim them, renew their leases, and record the outcomes of their documents.

Locks are taken in one order, batches by id and then jobs by id, so that transactions seldom deadlock; one that does is
repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from indexer.domain.jobs import Batch, JobKind, JobState, Outcome, Status
from indexer.ledger.job_counts import count_outcomes
from indexer.ledger.mirroring import mirror
from indexer.ledger.repairs import doubt, expect_late_write, keep_last_writes, repair
from indexer.ledger.sql import leases
from indexer.ledger.sql.database import Database, again_on_deadlock
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import Item, add_outcomes, as_batch, pack, plain
from indexer.ledger.sql.schema import (
    CRASHED,
    OF_REINDEX,
    batches,
    collections,
    failures,
    holds,
    jobs,
    pending,
    reindexes,
)

# The form of an upsert that both databases know. A longer hold is not made shorter, unless the clock was set back
# since.
_HOLD = sa.text(
    "INSERT INTO holds (collection, kind, until, wait_s) VALUES (:collection, :kind, :until, :wait_s) "
    "ON CONFLICT (collection, kind) DO UPDATE SET until = excluded.until, wait_s = excluded.wait_s "
    "WHERE holds.until < excluded.until OR holds.until > :now + 2 * holds.wait_s"
)
# Batches of one transaction of a cancellation.
_CANCEL_BATCHES = 50
# Crashes after which a batch is tried document by document: the first may have had another cause.
SOLO_AFTER = 2

Settled = tuple[Batch, Sequence[Outcome]]
Row = sa.Row[Any]


class Batches(Part):
    @operation
    @again_on_deadlock
    def claim(
        self,
        limit: int,
        lease_s: float,
        *,
        max_documents: int | None = None,
        alone: bool = True,
        filling: bool = False,
    ) -> list[Batch]:
        """Lease up to `limit` due batches, oldest first. With `max_documents` they are of one collection and kind and
        have no more documents than that together, unless it is one batch.

        A batch waits while an earlier accepted one still has to write a document of the same id. So the writes of a
        document happen in the order of their acceptance, whatever the number of workers (docs/promises.md, 4).

        A batch whose lease ended without a report is handed out by itself, and only to a caller that is `alone`, with
        nothing else in flight. Anything that was in flight when a process died may have killed it, and nothing else is
        to be suspected with it.

        Batches of a reindex are not in that order: a caller that is `filling` gets them, any other caller the rest.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            due = connection.execute(_due(now, filling).limit(1 if max_documents else limit)).all()
            chosen = _until_suspect(due, alone=alone)
            # A suspect batch of the other kind waits until nothing is in flight; claiming this kind now would starve
            # it.
            if chosen and not _is_suspect(chosen[0]) and connection.execute(_due_suspects(now, not filling)).first():
                return []
            if max_documents and chosen:
                chosen += _like(connection, chosen[0], max_documents, limit, now)
            claimed = []
            for row in chosen:
                doubt(connection, row, now)
                lease = leases.grant(row, lease_s, now)
                connection.execute(sa.update(batches).where(batches.c.id == row.id).values(lease))
                claimed.append(as_batch(row, lease["lease"], lease["crashes"]))
            for job_id in sorted({row.job_id for row in chosen}):
                running = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
                connection.execute(running.values(state=JobState.RUNNING, updated_at=now))
            return claimed

    @operation
    def due_in_s(self) -> float | None:
        """Return the seconds until the next waiting batch is due; None when none waits."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            attempt = leases.end_of_wait(batches.c.not_before, batches.c.wait_s, now)
            leased = leases.end_of_wait(batches.c.lease_until, batches.c.lease_s, now)
            due_at = sa.case((attempt > leased, attempt), else_=leased)
            held_until = leases.end_of_wait(holds.c.until, holds.c.wait_s, now)
            queries = (
                sa.select(sa.func.min(due_at)).where(~batches.c.done, due_at > now),
                sa.select(sa.func.min(held_until)).where(held_until > now),
            )
            times = [time for query in queries if (time := connection.execute(query).scalar_one()) is not None]
        return min(times) - now if times else None

    @operation
    @again_on_deadlock
    def renew(self, claimed: Sequence[Batch], lease_s: float, *, writing: bool = False) -> bool:
        """Renew the leases of batches. Return False when a lease was lost: the batch was claimed by another, or is gone
        with its collection. The other leases are renewed.

        `writing` says that something of the batches is about to be written to the store.
        """
        with self._database.write() as connection:
            leased = _lock_held(connection, claimed)
            values = leases.renewal(lease_s, self._database.now(connection)) | ({"touched": True} if writing else {})
            connection.execute(sa.update(batches).where(batches.c.id.in_(leased)).values(values))
            return len(leased) == len(claimed)

    @operation
    @again_on_deadlock
    def suspect(self, batch: Batch, position: int) -> bool:
        """Record that the document at this position is to blame if the process dies now. Return False when the lease
        was lost."""
        with self._database.write() as connection:
            leased = _lock_held(connection, [batch])
            connection.execute(sa.update(batches).where(batches.c.id.in_(leased)).values(suspect=position))
            return bool(leased)

    @operation
    @again_on_deadlock
    def finish(
        self,
        settled: Sequence[Settled],
        *,
        retry_after_s: float = 0.0,
        waiting_on: str | None = None,
        keep: bool = False,
        unanswered: bool = False,
    ) -> bool:
        """Record the outcomes of the documents of batches in one transaction. Documents without an outcome stay for
        another attempt; with `keep` the caller keeps the lease for them and no attempt is counted. `unanswered` is as
        in `release`.

        Return False when a lease was lost. Nothing of that batch is recorded, and what it may have overwritten is
        written again.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            leased = _lock_held(connection, [batch for batch, _ in settled])
            recorded = [(batch, outcomes) for batch, outcomes in settled if batch.id in leased]
            repair(connection, [batch for batch, _ in settled if batch.id not in leased], now)
            cancelling = _lock_jobs(connection, (batch.job_id for batch, _ in recorded))
            for batch, outcomes in sorted(recorded, key=lambda pair: pair[0].job_id):
                ending = list(outcomes)
                remaining = _without(batch, ending)
                if remaining and batch.job_id in cancelling:
                    ending += _cancelled(remaining)
                    remaining = ()
                row = leased[batch.id]
                values = _progress(row, ending, remaining)
                if keep and remaining:
                    # It went on, so what happened to other documents was not caused by this one.
                    values["crashes"] = SOLO_AFTER
                else:
                    values |= {"attempts": batch.attempts + 1, "crashes": 0, "touched": False}
                    values |= leases.release(retry_after_s, now)
                connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(values))
                if unanswered and row.touched:
                    expect_late_write(connection, batch, now)
                if row.touched:
                    mirror(connection, batch, [outcome.document_id for outcome in ending] if keep else _ids(batch))
                _delete_pending(connection, batch, remaining)
                _record_failures(connection, batch, ending)
                waits_on = waiting_on if remaining and not keep else None
                count_outcomes(connection, batch.job_id, ending, waits_on, now)
            keep_last_writes(connection, recorded)
            return len(recorded) == len(settled)

    @operation
    @again_on_deadlock
    def release(
        self,
        claimed: Sequence[Batch],
        *,
        retry_after_s: float,
        waiting_on: str | None,
        whole_collection: bool = False,
        crashed: bool = False,
        unanswered: bool = False,
    ) -> None:
        """Give batches back untouched, because something they need is unavailable or the worker stops. It is not an
        attempt. Batches of a job that is being cancelled end here.

        `whole_collection` lets all batches of this collection and kind wait; else each would be claimed to meet the
        same problem. `crashed` says that another process died with them in hand, which makes them suspect as if the
        worker had died. `unanswered` says that the store may still carry out what was written of them, after what is
        written later.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            leased = _lock_held(connection, claimed)
            returned = [batch for batch in claimed if batch.id in leased]
            repair(connection, [batch for batch in claimed if batch.id not in leased], now)
            cancelling = _lock_jobs(connection, (batch.job_id for batch in returned))
            ended = _cancel(connection, [batch.id for batch in returned if batch.job_id in cancelling])
            values = leases.release(retry_after_s, now) | {"touched": False}
            values |= {"crashes": batches.c.crashes + 1} if crashed else {"suspect": None}
            for batch in returned:
                if unanswered and leased[batch.id].touched:
                    expect_late_write(connection, batch, now)
                if batch.job_id in cancelling:
                    continue
                if leased[batch.id].touched:
                    mirror(connection, batch, _ids(batch))
                values["releases"] = batch.releases + (waiting_on is not None)
                connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(values))
            if returned and whole_collection:
                hold = {"collection": returned[0].collection, "kind": returned[0].kind, "now": now}
                connection.execute(_HOLD, hold | {"until": now + retry_after_s, "wait_s": retry_after_s})
            for job_id in sorted({batch.job_id for batch in returned}):
                count_outcomes(connection, job_id, ended[job_id], waiting_on, now)


@again_on_deadlock
def cancel_some(database: Database, job_id: str) -> bool:
    """Cancel some batches that nobody has leased of a job that is being cancelled. Return whether there may be more."""
    with database.write() as connection:
        now = database.now(connection)
        free = (
            sa.select(batches.c.id)
            .where(batches.c.job_id == job_id, ~batches.c.done, leases.is_free(batches, now))
            .order_by(batches.c.id)
            .limit(_CANCEL_BATCHES)
            .with_for_update(skip_locked=True)
        )
        chosen = connection.execute(free).scalars().all()
        _lock_jobs(connection, [job_id])
        if chosen:
            for row in connection.execute(sa.select(batches).where(batches.c.id.in_(chosen))):
                doubt(connection, row, now)
            count_outcomes(connection, job_id, _cancel(connection, chosen)[job_id], None, now)
        return len(chosen) == _CANCEL_BATCHES


def suspects_are_due(connection: sa.Connection, now: float) -> bool:
    """Return whether a batch that may have killed its worker is leased, or is to be tried alone now."""
    leased = sa.select(batches.c.id).where(CRASHED, ~batches.c.done, ~leases.is_free(batches, now)).limit(1)
    due = (_due(now, filling, lock=False).where(CRASHED).limit(1) for filling in (False, True))
    return any(connection.execute(query).first() for query in (leased, *due))


def _due(now: float, filling: bool, *, lock: bool = True) -> sa.Select[Any]:
    paused = sa.select(sa.literal(1)).where(collections.c.name == batches.c.collection, collections.c.paused)
    same = holds.c.collection == batches.c.collection, holds.c.kind == batches.c.kind
    on_hold = sa.select(sa.literal(1)).where(*same, ~leases.is_past(holds.c.until, holds.c.wait_s, now))
    due = (
        sa.select(batches, jobs.c.trace)
        .join(jobs)
        .where(
            *((OF_REINDEX,) if filling else (~OF_REINDEX, ~paused.exists())),
            ~on_hold.exists(),
            ~batches.c.done,
            jobs.c.seq.is_not(None),
            ~jobs.c.cancelling,
            leases.is_due(batches, now),
            ~_earlier_write(),
        )
        # The order of an index: sorting takes 46 ms a claim where 100,000 documents wait.
        .order_by(batches.c.id)
    )
    return due.with_for_update(of=batches, skip_locked=True) if lock else due


# Cached, because making its aliases took a seventh of the ledger's time in an import.
@cache
def _earlier_write() -> sa.ColumnElement[bool]:
    """Return the condition that a batch which was accepted earlier still has to write a document of the same id.

    Its result only ever turns from true to false: jobs are accepted one after the other, so none is accepted before one
    that can be seen. An old snapshot, which PostgreSQL uses when it skips locked rows, can delay a batch but never
    release it too early.
    """
    own, earlier = pending.alias(), pending.alias()
    earlier_batch, earlier_job = batches.alias(), jobs.alias()
    same = sa.and_(earlier.c.collection == own.c.collection, earlier.c.document_id == own.c.document_id)
    accepted = sa.func.coalesce(batches.c.seq, jobs.c.seq)
    accepted_earlier = sa.func.coalesce(earlier_batch.c.seq, earlier_job.c.seq)
    earlier_in_job = sa.and_(accepted_earlier == accepted, earlier.c.batch_id < batches.c.id)
    return (
        sa.select(sa.literal(1))
        .select_from(
            own.join(earlier, same)
            .join(earlier_batch, earlier_batch.c.id == earlier.c.batch_id)
            .join(earlier_job, earlier_job.c.id == earlier_batch.c.job_id)
        )
        .where(
            own.c.batch_id == batches.c.id,
            earlier.c.batch_id != batches.c.id,
            sa.or_(accepted_earlier < accepted, earlier_in_job),
        )
        .exists()
    )


def _until_suspect(rows: Sequence[Row], *, alone: bool) -> list[Row]:
    """Return the rows before the first suspect one, or that one by itself where it comes first."""
    suspects = [_is_suspect(row) for row in rows]
    if any(suspects[:1]):
        return list(rows[:1]) if alone else []
    return list(rows[: [*suspects, True].index(True)])


def _is_suspect(row: Row) -> bool:
    return row.lease is not None or row.crashes > 0


def _due_suspects(now: float, filling: bool) -> sa.Select[Any]:
    return _due(now, filling).where(sa.or_(batches.c.lease.is_not(None), batches.c.crashes > 0)).limit(1)


def _like(connection: sa.Connection, first: Row, max_documents: int, limit: int, now: float) -> list[Row]:
    """Return batches of the collection and kind of a small batch, to be claimed with it.

    No more rows are read than would fit if all had its size: a row that is read is locked, and other workers skip it
    meanwhile.
    """
    room = min(limit - 1, (max_documents - first.size) // max(1, first.size))
    if room <= 0 or _is_suspect(first):
        return []
    query = _due(now, first.kind == JobKind.REINDEX).where(
        batches.c.id != first.id,
        batches.c.collection == first.collection,
        batches.c.kind == first.kind,
        batches.c.crashes == 0,
        batches.c.lease.is_(None),
    )
    chosen, documents = [], first.size
    for row in connection.execute(query.limit(room)).all():
        documents += row.size
        if documents > max_documents:
            break
        chosen.append(row)
    return chosen


def _lock_held(connection: sa.Connection, claimed: Sequence[Batch]) -> dict[int, Row]:
    """Lock the batches whose leases the caller still has.

    Return their outcomes so far and whether they were touched.
    """
    by_id = {batch.id: batch.lease for batch in claimed}
    return leases.lock_held(connection, batches, by_id, batches.c.outcomes, batches.c.touched)


def _lock_jobs(connection: sa.Connection, job_ids: Iterable[str]) -> set[str]:
    """Lock jobs, and return those that are being cancelled."""
    query = sa.select(jobs.c.id, jobs.c.cancelling).where(jobs.c.id.in_(set(job_ids))).order_by(jobs.c.id)
    return {row.id for row in connection.execute(query.with_for_update(key_share=True)) if row.cancelling}


def _ids(batch: Batch) -> list[str]:
    return [document.id for _, document in batch.items]


def _cancel(connection: sa.Connection, batch_ids: Sequence[int]) -> dict[str, list[Outcome]]:
    """Cancel batches that are locked, as their jobs are. Return the outcomes to be counted, by job."""
    ended: dict[str, list[Outcome]] = defaultdict(list)
    for row in connection.execute(sa.select(batches).where(batches.c.id.in_(batch_ids))).all() if batch_ids else ():
        batch = as_batch(row, "", row.crashes)
        outcomes = _cancelled(batch.items)
        values = {**_progress(row, outcomes, ()), **leases.NO_LEASE}
        connection.execute(sa.update(batches).where(batches.c.id == row.id).values(values))
        if row.touched:
            mirror(connection, batch, _ids(batch))
        _delete_pending(connection, batch, ())
        _record_failures(connection, batch, outcomes)
        ended[batch.job_id] += outcomes
    return ended


def _cancelled(items: Iterable[Item]) -> list[Outcome]:
    return [Outcome(position, document.id, Status.CANCELLED) for position, document in items]


def _progress(row: Row, outcomes: Sequence[Outcome], remaining: Sequence[Item]) -> dict[str, Any]:
    """Return the values of a batch with further outcomes and the items that remain."""
    values = {"items": pack(remaining), "size": len(remaining), "done": not remaining, "suspect": None}
    return {**values, "outcomes": add_outcomes(row.outcomes, outcomes)}


def _without(batch: Batch, outcomes: Sequence[Outcome]) -> tuple[Item, ...]:
    settled = {outcome.position for outcome in outcomes}
    return tuple((position, document) for position, document in batch.items if position not in settled)


def _delete_pending(connection: sa.Connection, batch: Batch, remaining: Sequence[Item]) -> None:
    delete = sa.delete(pending).where(pending.c.batch_id == batch.id)
    if remaining_ids := {document.id for _, document in remaining}:
        delete = delete.where(pending.c.document_id.in_([key for key in _ids(batch) if key not in remaining_ids]))
    connection.execute(delete)


def _record_failures(connection: sa.Connection, batch: Batch, outcomes: Sequence[Outcome]) -> None:
    """Record what failed, with its content for a retry. Earlier failures of these documents can no longer be retried.

    The writes of a document are settled in the order of their acceptance, so its recorded failures are of earlier
    writes.
    """
    last = {outcome.document_id: outcome for outcome in sorted(outcomes, key=lambda outcome: outcome.position)}
    # An update that failed is no later write: the document may still wait for an earlier one to be tried again.
    written = [
        key for key, outcome in last.items() if batch.kind is not JobKind.UPDATE or outcome.status is not Status.FAILED
    ]
    superseded = (
        sa.select(failures.c.id)
        .where(
            failures.c.collection == batch.collection,
            failures.c.document_id.in_(written),
            failures.c.item.is_not(None),
        )
        .order_by(failures.c.id)
        .with_for_update()
    )
    # A reindex writes nothing that was posted.
    of_reindex = failures.c.job_id.in_(sa.select(reindexes.c.job_id))
    superseded = superseded.where(of_reindex if batch.kind is JobKind.REINDEX else ~of_reindex)
    if batch.kind is not JobKind.REPAIR and (superseded_ids := connection.execute(superseded).scalars().all()):
        connection.execute(sa.update(failures).where(failures.c.id.in_(superseded_ids)).values(item=None))
    items = dict(batch.items)
    rows = [
        {
            "job_id": batch.job_id,
            "position": outcome.position,
            "document_id": outcome.document_id,
            "code": outcome.code or "",
            "detail": plain(outcome.detail or ""),
            "collection": batch.collection,
            "item": pack([(outcome.position, items[outcome.position])])
            if last[outcome.document_id] is outcome
            else None,
        }
        for outcome in outcomes
        if outcome.status is Status.FAILED
    ]
    if rows:
        connection.execute(sa.insert(failures), rows)
