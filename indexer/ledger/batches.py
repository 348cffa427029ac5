"""What a worker does with the ledger: claims batches, holds them, says what became of their documents.

Locks are taken in one order, batches by id and then jobs by id, so that transactions seldom deadlock; one that does is repeated.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from indexer.domain.jobs import Batch, JobKind, JobState, Outcome, Status
from indexer.ledger.database import Database, again_on_deadlock
from indexer.ledger.job_counts import count_outcomes
from indexer.ledger.mirroring import follow
from indexer.ledger.operation import Part, operation
from indexer.ledger.repairs import doubt, keep_last, repair
from indexer.ledger.rows import Item, add_outcomes, as_batch, pack, plain
from indexer.ledger.schema import CRASHED, OF_REINDEX, batches, collections, failures, holds, jobs, pending, reindexes

_HOLD = sa.text(  # the one form of this that both databases know
    "INSERT INTO holds (collection, kind, until) VALUES (:collection, :kind, :until) "
    "ON CONFLICT (collection, kind) DO UPDATE SET until = excluded.until WHERE holds.until < excluded.until"
)
_CANCEL_BATCHES = 50  # of one transaction
SOLO_AFTER = 2  # crashes, after which a batch goes document by document: the first may have had another cause

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
        """Up to `limit` batches that are due, oldest first, leased to the caller. With `max_documents` those are of one collection
        and kind, and have together no more documents than that, or it is one batch.

        A batch waits while one accepted earlier still has a document of the same id to write, so that writes of a document
        happen in the order they were accepted, whatever the number of workers (promise 4).

        A batch whose lease ran out is handed out by itself and only to a caller that is `alone`, with nothing else in flight:
        what was in flight when a process died is what may have killed it, and nothing else is to be suspected with it.

        Batches of a reindex have no place in that order: they are handed out to who is `filling`, and the others to who is not.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            due = connection.execute(_due(now, filling).limit(1 if max_documents else limit)).all()
            chosen = _plain(due, alone=alone)
            if chosen and not _suspect(chosen[0]) and connection.execute(_suspects(now, not filling)).first():
                return []  # there would never be nothing in flight, were the one kind claimed while one of the other waits for that
            if max_documents and chosen:
                chosen += _more(connection, chosen[0], max_documents, limit, now)
            lease = uuid.uuid4().hex
            claimed = [as_batch(row, lease) for row in chosen]
            for row in chosen:
                doubt(connection, row, now)
            for batch in claimed:
                leased = {"lease": lease, "lease_until": now + lease_s, "crashes": batch.crashes}
                connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(leased))
            for job_id in sorted({row.job_id for row in chosen}):
                running = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
                connection.execute(running.values(state=JobState.RUNNING, updated_at=now))
            return claimed

    @operation
    def due_in_s(self) -> float | None:
        """Seconds until the next batch that is not due yet will be; None when there is none."""
        later = sa.case(
            (batches.c.not_before > batches.c.lease_until, batches.c.not_before), else_=batches.c.lease_until
        )
        with self._database.read() as connection:
            now = self._database.now(connection)
            query = sa.select(sa.func.min(later)).where(~batches.c.done, later > now)
            until = sa.select(sa.func.min(holds.c.until)).where(holds.c.until > now)
            found = [connection.execute(each).scalar_one() for each in (query, until)]
            times = [float(value) for value in found if value is not None]
            return min(times) - now if times else None

    @operation
    @again_on_deadlock
    def renew(self, claimed: Sequence[Batch], lease_s: float, *, writing: bool = False) -> bool:
        """False when a lease was lost: the batch is another's by now, or gone with its collection. The others are renewed.

        `writing`: something of the batches is about to be written to the store.
        """
        with self._database.write() as connection:
            held = _held(connection, claimed)
            values: dict[str, object] = {"lease_until": self._database.now(connection) + lease_s}
            values |= {"touched": True} if writing else {}
            connection.execute(sa.update(batches).where(batches.c.id.in_(held)).values(values))
            return len(held) == len(claimed)

    @operation
    @again_on_deadlock
    def suspect(self, batch: Batch, position: int) -> bool:
        """From here on this document is the one to blame should the process die. False when the lease was lost."""
        with self._database.write() as connection:
            held = _held(connection, [batch])
            connection.execute(sa.update(batches).where(batches.c.id.in_(held)).values(suspect=position))
            return bool(held)

    @operation
    @again_on_deadlock
    def finish(
        self,
        settled: Sequence[Settled],
        *,
        retry_after_s: float = 0.0,
        waiting_on: str | None = None,
        keep: bool = False,
    ) -> bool:
        """Records what became of the documents of batches, in one transaction. Those without an outcome stay, as one attempt more,
        to be tried again; with `keep` the lease is kept for them and no attempt counted.

        False when a lease was lost; of that batch nothing is recorded, and what it may have overwritten is written again.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            held = _held(connection, [batch for batch, _ in settled])
            mine = [(batch, outcomes) for batch, outcomes in settled if batch.id in held]
            repair(connection, [batch for batch, _ in settled if batch.id not in held], now)
            stopped = _lock_jobs(connection, (batch.job_id for batch, _ in mine))
            for batch, outcomes in sorted(mine, key=lambda one: one[0].job_id):
                ending = list(outcomes)
                rest = _without(batch, ending)
                if rest and batch.job_id in stopped:
                    ending += [Outcome(position, one.id, Status.CANCELLED) for position, one in rest]
                    rest = ()
                values: dict[str, object] = {"items": pack(rest), "size": len(rest), "done": not rest, "suspect": None}
                values["outcomes"] = add_outcomes(held[batch.id].outcomes, ending)
                if keep and rest:
                    values["crashes"] = SOLO_AFTER  # it got on: what happened to others is not this one's doing
                else:
                    values |= {"attempts": batch.attempts + 1, "not_before": now + retry_after_s, "crashes": 0}
                    values |= {"lease": None, "lease_until": 0.0, "touched": False}
                connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(values))
                if held[batch.id].touched:
                    follow(connection, batch, [one.document_id for one in ending] if keep else _ids(batch))
                _no_longer_pending(connection, batch, rest)
                _record_failures(connection, batch, ending)
                count_outcomes(connection, batch.job_id, ending, waiting_on if rest and not keep else None, now)
            keep_last(connection, mine)
            return len(mine) == len(settled)

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
    ) -> None:
        """Gives batches back untouched: something they need does not answer, or the worker stops. Not an attempt. Those of a job
        that is being cancelled end here.

        `whole_collection` holds up whatever else of this kind is there: else each batch would be claimed to meet the same trouble.
        `crashed`: another process died with them in hand, which makes them suspect as if it had been the worker.
        """
        with self._database.write() as connection:
            now = self._database.now(connection)
            not_before = now + retry_after_s
            held = _held(connection, claimed)
            mine = [batch for batch in claimed if batch.id in held]
            repair(connection, [batch for batch in claimed if batch.id not in held], now)
            stopped = _lock_jobs(connection, (batch.job_id for batch in mine))
            ended = _cancel(connection, [batch.id for batch in mine if batch.job_id in stopped])
            back: dict[str, Any] = {"lease": None, "lease_until": 0.0, "not_before": not_before, "touched": False}
            back |= {"crashes": batches.c.crashes + 1} if crashed else {"suspect": None}
            for batch in mine:
                if batch.job_id in stopped:
                    continue
                if held[batch.id].touched:
                    follow(connection, batch, _ids(batch))
                releases = batch.releases + (waiting_on is not None)
                connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(**back, releases=releases))
            if mine and whole_collection:
                held_up = {"collection": mine[0].collection, "kind": mine[0].kind, "until": not_before}
                connection.execute(_HOLD, held_up)
            for job_id in sorted({batch.job_id for batch in mine}):
                count_outcomes(connection, job_id, ended[job_id], waiting_on, now)


@again_on_deadlock
def cancel_some(database: Database, job_id: str) -> bool:
    """One small transaction of a job that is being cancelled: batches that nobody has in hand. Whether there may be more."""
    with database.write() as connection:
        now = database.now(connection)
        free = (
            sa.select(batches.c.id)
            .where(batches.c.job_id == job_id, ~batches.c.done, batches.c.lease_until <= now)
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
    """Whether there is a batch that may have killed its worker, in hand or to be tried alone now."""
    in_hand = sa.select(batches.c.id).where(CRASHED, ~batches.c.done, batches.c.lease_until > now).limit(1)
    due = (_due(now, filling, lock=False).where(CRASHED).limit(1) for filling in (False, True))
    return any(connection.execute(query).first() for query in (in_hand, *due))


def _due(now: float, filling: bool, *, lock: bool = True) -> sa.Select[Any]:
    paused = sa.select(sa.literal(1)).where(collections.c.name == batches.c.collection, collections.c.paused)
    same = holds.c.collection == batches.c.collection, holds.c.kind == batches.c.kind
    held_up = sa.select(sa.literal(1)).where(*same, holds.c.until > now)
    due = (
        sa.select(batches, jobs.c.trace)
        .join(jobs)
        .where(
            *((OF_REINDEX,) if filling else (~OF_REINDEX, ~paused.exists())),
            ~held_up.exists(),
            ~batches.c.done,
            jobs.c.seq.is_not(None),
            ~jobs.c.cancelling,
            batches.c.lease_until <= now,
            batches.c.not_before <= now,
            ~_earlier_write(),
        )
        .order_by(batches.c.id)  # the order of an index: with 100,000 documents waiting, sorting takes 46 ms a claim
    )
    return due.with_for_update(of=batches, skip_locked=True) if lock else due


@cache  # making its aliases took a seventh of the ledger's time in an import
def _earlier_write() -> sa.ColumnElement[bool]:
    """Whether a batch accepted earlier than the row of the query still has a document of the same id to write.

    What it finds only becomes less: jobs are accepted one after the other, so none comes in before one that can be seen. So an old
    snapshot, as PostgreSQL has it when it waits for nothing, can hold a batch up but never let it go too early.
    """
    mine, other = pending.alias(), pending.alias()
    other_batch, other_job = batches.alias(), jobs.alias()
    same = sa.and_(other.c.collection == mine.c.collection, other.c.document_id == mine.c.document_id)
    accepted = sa.func.coalesce(batches.c.seq, jobs.c.seq)
    other_accepted = sa.func.coalesce(other_batch.c.seq, other_job.c.seq)
    earlier_in_job = sa.and_(other_accepted == accepted, other.c.batch_id < batches.c.id)
    return (
        sa.select(sa.literal(1))
        .select_from(
            mine.join(other, same)
            .join(other_batch, other_batch.c.id == other.c.batch_id)
            .join(other_job, other_job.c.id == other_batch.c.job_id)
        )
        .where(
            mine.c.batch_id == batches.c.id,
            other.c.batch_id != batches.c.id,
            sa.or_(other_accepted < accepted, earlier_in_job),
        )
        .exists()
    )


def _plain(rows: Sequence[Row], *, alone: bool) -> list[Row]:
    """The rows up to the first suspect one; that one by itself where it comes first."""
    suspects = [_suspect(row) for row in rows]
    if any(suspects[:1]):
        return list(rows[:1]) if alone else []
    return list(rows[: [*suspects, True].index(True)])


def _suspect(row: Row) -> bool:
    return row.lease is not None or row.crashes > 0


def _suspects(now: float, filling: bool) -> sa.Select[Any]:
    return _due(now, filling).where(sa.or_(batches.c.lease.is_not(None), batches.c.crashes > 0)).limit(1)


def _more(connection: sa.Connection, first: Row, max_documents: int, limit: int, now: float) -> list[Row]:
    """What else goes with a small batch. No more rows are read than would be used were all of its size: a row that is read is
    locked, and another worker that claims meanwhile would pass it over."""
    room = min(limit - 1, (max_documents - first.size) // max(1, first.size))
    if room <= 0 or first.crashes or first.lease is not None:
        return []
    like = _due(now, first.kind == JobKind.REINDEX).where(
        batches.c.id != first.id,
        batches.c.collection == first.collection,
        batches.c.kind == first.kind,
        batches.c.crashes == 0,
        batches.c.lease.is_(None),
    )
    more, documents = [], first.size
    for row in connection.execute(like.limit(room)).all():
        documents += row.size
        if documents > max_documents:
            break
        more.append(row)
    return more


def _held(connection: sa.Connection, claimed: Sequence[Batch]) -> dict[int, sa.Row[Any, Any, Any, Any]]:
    """Those of the batches that are still the caller's, locked, each with its outcomes so far and whether it was touched."""
    query = sa.select(batches.c.id, batches.c.lease, batches.c.outcomes, batches.c.touched).where(
        batches.c.id.in_([one.id for one in claimed])
    )
    leases = {batch.id: batch.lease for batch in claimed}
    rows = connection.execute(query.order_by(batches.c.id).with_for_update()).all()
    return {row.id: row for row in rows if row.lease == leases[row.id]}


def _lock_jobs(connection: sa.Connection, job_ids: Iterable[str]) -> set[str]:
    """Locks the jobs; those of them that are being cancelled."""
    query = sa.select(jobs.c.id, jobs.c.cancelling).where(jobs.c.id.in_(set(job_ids))).order_by(jobs.c.id)
    return {row.id for row in connection.execute(query.with_for_update(key_share=True)) if row.cancelling}


def _ids(batch: Batch) -> list[str]:
    return [document.id for _, document in batch.items]


def _cancel(connection: sa.Connection, batch_ids: Sequence[int]) -> dict[str, list[Outcome]]:
    """Ends batches that are locked, as their jobs are; by job what is to be counted."""
    ended: dict[str, list[Outcome]] = defaultdict(list)
    for row in connection.execute(sa.select(batches).where(batches.c.id.in_(batch_ids))).all() if batch_ids else ():
        batch = as_batch(row, "")
        outcomes = [Outcome(position, one.id, Status.CANCELLED) for position, one in batch.items]
        emptied = {"items": "[]", "size": 0, "done": True, "lease": None, "lease_until": 0.0, "suspect": None}
        said = add_outcomes(row.outcomes, outcomes)
        connection.execute(sa.update(batches).where(batches.c.id == row.id).values(**emptied, outcomes=said))
        if row.touched:
            follow(connection, batch, _ids(batch))
        _no_longer_pending(connection, batch, ())
        _record_failures(connection, batch, outcomes)
        ended[batch.job_id] += outcomes
    return ended


def _without(batch: Batch, outcomes: Sequence[Outcome]) -> tuple[Item, ...]:
    settled = {outcome.position for outcome in outcomes}
    return tuple((position, document) for position, document in batch.items if position not in settled)


def _no_longer_pending(connection: sa.Connection, batch: Batch, rest: Sequence[Item]) -> None:
    delete = sa.delete(pending).where(pending.c.batch_id == batch.id)
    left = {document.id for _, document in rest}
    if left:
        delete = delete.where(pending.c.document_id.in_([one.id for _, one in batch.items if one.id not in left]))
    connection.execute(delete)


def _record_failures(connection: sa.Connection, batch: Batch, outcomes: Sequence[Outcome]) -> None:
    """Lists what failed, with its content for a retry; earlier failures of these documents can no longer be retried.

    The writes of a document are settled in the order they were accepted, so whatever is listed of it is of an earlier write.
    """
    last = {outcome.document_id: outcome for outcome in sorted(outcomes, key=lambda one: one.position)}
    superseded = (
        sa.select(failures.c.id)
        .where(
            failures.c.collection == batch.collection,
            failures.c.document_id.in_(list(last)),
            failures.c.item.is_not(None),
        )
        .order_by(failures.c.id)
        .with_for_update()
    )
    of_reindex = failures.c.job_id.in_(sa.select(reindexes.c.job_id))  # it writes nothing that was posted
    superseded = superseded.where(of_reindex if batch.kind is JobKind.REINDEX else ~of_reindex)
    if batch.kind is not JobKind.REPAIR and (found := connection.execute(superseded).scalars().all()):
        connection.execute(sa.update(failures).where(failures.c.id.in_(found)).values(item=None))
    items = dict(batch.items)
    rows = [
        {
            "job_id": batch.job_id,
            "position": one.position,
            "document_id": one.document_id,
            "code": one.code or "",
            "detail": plain(one.detail or ""),
            "collection": batch.collection,
            "item": pack([(one.position, items[one.position])]) if last[one.document_id] is one else None,
        }
        for one in outcomes
        if one.status is Status.FAILED
    ]
    if rows:
        connection.execute(sa.insert(failures), rows)
