"""Repairs: rewriting documents that may have been overwritten with older writes: by a worker that was suspended for
longer than its lease, or by a write that the store held up on its way and carried out after later ones.

    batch taken from a worker that was writing ─► doubts: its documents ─► each later write is remembered there
                    ─► the worker reports back: a repair job of those documents
                    ─► it never does: the doubts are forgotten together with old jobs
    a write has no answer, its worker is stopped ─► doubts: its documents ─► each later write is remembered there
    or dies        ─► it is too old to be carried out any more: a repair job of those documents; those of a reindex are
                       copied from the serving generation once more

A repair is a job, so it comes after the writes that were accepted before it and before those that follow. Its batches
look up the last write of each document when they are claimed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from indexer.domain.documents import Document
from indexer.domain.jobs import Batch, JobKind, JobState, Outcome, Status
from indexer.ledger.mirroring import mirror, mirror_documents
from indexer.ledger.sql.counters import next_number
from indexer.ledger.sql.database import again_on_deadlock
from indexer.ledger.sql.operation import Part, operation
from indexer.ledger.sql.rows import Item, as_batch, pack, unpack
from indexer.ledger.sql.schema import batches, doubts, jobs, pending

_WRITTEN = (Status.INDEXED, Status.SKIPPED)
# The holder of a doubt is a lease, or one of these and a number where it is the store that may write late: what was
# accepted, or what a reindex copied.
_STORE, _COPIED = "store:", "reindex:"
# Of late writes, in one transaction.
_DOUBTS_AT_A_TIME = 5_000


class Repairs(Part):
    @operation
    def latest_writes(self, batch: Batch) -> Mapping[JobKind, Sequence[Item]]:
        """Return the last write of each document of a batch of repairs, by the kind of its job, and under `UPDATE` what
        came after it, in order.

        Under `REPAIR` are documents without a known write: nothing was written after the late write, so it stands.
        """
        # Another doubt about the same document may be younger, and know less of it.
        own = doubts.c.collection == batch.collection, doubts.c.job_id == batch.job_id
        in_batch = doubts.c.document_id.in_([document.id for _, document in batch.items])
        query = sa.select(doubts).where(*own, in_batch, doubts.c.item.is_not(None))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        last = {row.document_id: (JobKind(row.kind), unpack(row.item)) for row in rows}
        writes: dict[JobKind, list[Item]] = {}
        for position, document in batch.items:
            kind, items = last.get(document.id, (JobKind.REPAIR, ((position, document),)))
            for place, (_, content) in enumerate(items):
                writes.setdefault(JobKind.UPDATE if place else kind, []).append((position, content))
        return writes

    @operation
    @again_on_deadlock
    def repair_late_writes(self, after_s: float) -> int:
        """Queue repairs of some documents whose write had no answer for `after_s`: it was carried out by now, or never
        will be. Return how many documents; there are more until it is 0."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            # Another process repairs those that it has locked.
            rows = connection.execute(
                sa.select(doubts.c.holder, doubts.c.collection)
                .where(_held_by(_STORE, _COPIED), doubts.c.since <= now - after_s)
                .order_by(doubts.c.id)
                .limit(_DOUBTS_AT_A_TIME)
                .with_for_update(skip_locked=True)
            ).all()
            documents = 0
            for holder, collection in dict.fromkeys(map(tuple, rows)):
                copied = holder.startswith(_COPIED)
                ids = (_end if copied else _queue)(connection, holder, collection, now)
                mirror_documents(connection, collection, ids, rewriting=True)
                documents += len(ids)
            return documents

    @operation
    def late_copies_are_expected(self, collection: str) -> bool:
        """Return whether the store may still carry out a write of a reindex, after which it is repeated."""
        query = sa.select(doubts.c.id).where(doubts.c.collection == collection, _held_by(_COPIED)).limit(1)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    @operation
    def forget_doubts(self, retention_s: float) -> None:
        """Forget the doubts about workers that did not report back for so long, because they have died."""
        with self._database.write() as connection:
            old = doubts.c.job_id.is_(None), doubts.c.since < self._database.now(connection) - retention_s
            connection.execute(sa.delete(doubts).where(*old))


def doubt(connection: sa.Connection, row: sa.Row[Any], now: float) -> None:
    """Record that a batch is claimed again, or ends, while its former worker may still be writing it, or the store what
    that worker had sent before it died."""
    if row.lease is None or not row.touched:
        return
    if row.kind != JobKind.REINDEX:
        _doubt(connection, row.collection, {document.id for _, document in unpack(row.items)}, row.lease, now)
    expect_late_write(connection, as_batch(row, row.lease, row.crashes), now)


def expect_late_write(connection: sa.Connection, batch: Batch, now: float) -> None:
    """Record that the store did not answer a write of a batch, which it may still carry out.

    A batch of which this happens again and again is in doubt since the last time.
    """
    prefix = _COPIED if batch.kind is JobKind.REINDEX else _STORE
    ids = {document.id for _, document in batch.items}
    same = doubts.c.collection == batch.collection, doubts.c.document_id.in_(ids)
    again = sa.update(doubts).where(*same, _held_by(prefix)).values(since=now).returning(doubts.c.document_id)
    doubtful = set(connection.execute(again).scalars())
    _doubt(connection, batch.collection, ids - doubtful, f"{prefix}{uuid.uuid4().hex}", now)


def _held_by(*prefixes: str) -> sa.ColumnElement[bool]:
    """Return the condition of a doubt about the store that has no repair job yet."""
    return sa.and_(sa.or_(*(doubts.c.holder.startswith(prefix) for prefix in prefixes)), doubts.c.job_id.is_(None))


def _doubt(connection: sa.Connection, collection: str, ids: Iterable[str], holder: str, now: float) -> None:
    values = {"holder": holder, "collection": collection, "since": now}
    if rows := [{**values, "document_id": key} for key in sorted(ids)]:
        connection.execute(sa.insert(doubts), rows)


def keep_last_writes(connection: sa.Connection, settled: Iterable[tuple[Batch, Sequence[Outcome]]]) -> None:
    """Remember the latest settled write of every doubtful document, and end the doubt once a repair has rewritten
    it."""
    written = [
        (batch, {outcome.position for outcome in outcomes if outcome.status in _WRITTEN}) for batch, outcomes in settled
    ]
    ids = {document.id for batch, positions in written for position, document in batch.items if position in positions}
    query = sa.select(doubts.c.collection, doubts.c.document_id).where(doubts.c.document_id.in_(ids))
    doubtful = {tuple(row) for row in connection.execute(query)} if ids else set()
    for batch, positions in written if doubtful else ():
        for key, (position, document) in _last_by_id(batch).items():
            if (batch.collection, key) not in doubtful:
                continue
            same = doubts.c.collection == batch.collection, doubts.c.document_id == key
            if batch.kind is JobKind.UPDATE:
                _keep_updates(connection, same, [item for item in batch.items if item[0] in positions])
            elif position not in positions:
                continue
            elif batch.kind is JobKind.REPAIR:
                connection.execute(sa.delete(doubts).where(*same, doubts.c.job_id == batch.job_id))
            elif batch.kind is not JobKind.REINDEX:
                write = {"kind": batch.kind, "item": pack([(position, document)])}
                connection.execute(sa.update(doubts).where(*same).values(write))


def _keep_updates(connection: sa.Connection, same: Sequence[sa.ColumnElement[bool]], items: Sequence[Item]) -> None:
    """Add updates of a document to its last write: an update says nothing of the rest of the document."""
    for row in connection.execute(sa.select(doubts).where(*same)).all():
        updates = [item for item in items if item[1].id == row.document_id]
        earlier = unpack(row.item) if row.item is not None else ()
        write = {"kind": row.kind or JobKind.UPDATE, "item": pack([*earlier, *updates])}
        if updates:
            connection.execute(sa.update(doubts).where(doubts.c.id == row.id).values(write))


def repair(connection: sa.Connection, lost: Sequence[Batch], now: float) -> None:
    """Queue a repair job for the documents of batches whose lease was lost.

    Their worker has reported back, and may have written stale data after the lease ended.
    """
    for batch in lost:
        if batch.kind is JobKind.REINDEX:
            mirror_documents(connection, batch.collection, [document.id for _, document in batch.items])
            continue
        if ids := _queue(connection, batch.lease, batch.collection, now):
            # The late write may have gone to what is the other generation by now.
            mirror(connection, batch, ids)


def _queue(connection: sa.Connection, holder: str | None, collection: str, now: float) -> Sequence[str]:
    """Queue a repair job for the documents that a holder may have overwritten, and return their ids."""
    doubtful = doubts.c.holder == holder, doubts.c.collection == collection, doubts.c.job_id.is_(None)
    query = sa.select(doubts.c.document_id).where(*doubtful).order_by(doubts.c.id)
    ids = connection.execute(query).scalars().all()
    if not ids:
        return ids
    job = {"id": uuid.uuid4().hex, "collection": collection, "kind": JobKind.REPAIR, "state": JobState.QUEUED}
    times = {"seq": next_number("seq", connection), "created_at": now, "updated_at": now}
    connection.execute(sa.insert(jobs).values(**job, **times, accepted=len(ids)))
    items = pack([(position, Document(key)) for position, key in enumerate(ids)])
    row = {"job_id": job["id"], "collection": collection, "kind": JobKind.REPAIR}
    added = sa.insert(batches).values(**row, size=len(ids), items=items).returning(batches.c.id)
    ordered = {"batch_id": connection.execute(added).scalar_one(), "collection": collection}
    connection.execute(sa.insert(pending), [{**ordered, "document_id": key} for key in ids])
    connection.execute(sa.update(doubts).where(*doubtful).values(job_id=job["id"]))
    return ids


def _end(connection: sa.Connection, holder: str | None, collection: str, _now: float) -> Sequence[str]:
    """End the doubts of a holder, and return their ids."""
    same = doubts.c.holder == holder, doubts.c.collection == collection
    return connection.execute(sa.delete(doubts).where(*same).returning(doubts.c.document_id)).scalars().all()


def _last_by_id(batch: Batch) -> dict[str, Item]:
    """Return the last item of each document id."""
    return {document.id: (position, document) for position, document in batch.items}
