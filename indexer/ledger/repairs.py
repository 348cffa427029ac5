"""Writes that came too late: what a worker put over later ones when it had stood still for longer than its lease is written again.

    taken from it as it wrote ─► doubts: its ids ─► what is settled of them later is kept there ─► it is back: a repair of the ids
                                                                                            or never: forgotten with old jobs

A repair is a job, which comes after the writes accepted before it and before those that follow. What it writes is looked up as it is
begun: the last write that stands.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from indexer.domain.documents import Document
from indexer.domain.jobs import Batch, JobKind, JobState, Outcome, Status
from indexer.ledger.counters import next_number
from indexer.ledger.mirroring import fill, follow
from indexer.ledger.operation import Part, operation
from indexer.ledger.rows import Item, pack, unpack
from indexer.ledger.schema import batches, doubts, jobs, pending

_STANDS = (Status.INDEXED, Status.SKIPPED)


class Repairs(Part):
    @operation
    def latest_writes(self, batch: Batch) -> Mapping[JobKind, Sequence[Item]]:
        """Of a batch of repairs: the last write of each document, by its kind; under `REPAIR` those of which none is known, so
        that what came too late was not too late."""
        known = doubts.c.document_id.in_([document.id for _, document in batch.items]), doubts.c.item.is_not(None)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(doubts).where(doubts.c.collection == batch.collection, *known)).all()
        last = {row.document_id: (JobKind(row.kind), unpack(row.item)[0][1]) for row in rows}
        found: dict[JobKind, list[Item]] = {}
        for position, document in batch.items:
            kind, content = last.get(document.id, (JobKind.REPAIR, document))
            found.setdefault(kind, []).append((position, content))
        return found

    @operation
    def forget_doubts(self, retention_s: float) -> None:
        """Of holders that are not back by now: they died."""
        with self._database.write() as connection:
            old = doubts.c.job_id.is_(None), doubts.c.since < self._database.now(connection) - retention_s
            connection.execute(sa.delete(doubts).where(*old))


def doubt(connection: sa.Connection, row: sa.Row[Any], now: float) -> None:
    """A batch goes to another, or ends, while the one that held it may still be writing it."""
    if row.lease is not None and row.touched and row.kind != JobKind.REINDEX:
        ids = {document.id for _, document in unpack(row.items)}
        about = {"holder": row.lease, "collection": row.collection, "since": now}
        connection.execute(sa.insert(doubts), [{**about, "document_id": key} for key in sorted(ids)])


def keep_last(connection: sa.Connection, settled: Iterable[tuple[Batch, Sequence[Outcome]]]) -> None:
    """Of documents in doubt the write that stands is kept; one that is repaired is in doubt no longer."""
    done = [(batch, {one.position for one in outcomes if one.status in _STANDS}) for batch, outcomes in settled]
    ids = {document.id for batch, positions in done for position, document in batch.items if position in positions}
    found = connection.execute(
        sa.select(doubts.c.collection, doubts.c.document_id).where(doubts.c.document_id.in_(ids))
    )
    doubtful = {tuple(row) for row in found} if ids else set()
    for batch, positions in done if doubtful else ():
        for key, (position, document) in _last(batch).items():
            if position not in positions or (batch.collection, key) not in doubtful:
                continue
            same = doubts.c.collection == batch.collection, doubts.c.document_id == key
            if batch.kind is JobKind.REPAIR:
                connection.execute(sa.delete(doubts).where(*same, doubts.c.job_id == batch.job_id))
            elif batch.kind is not JobKind.REINDEX:
                kept = {"kind": batch.kind, "item": pack([(position, document)])}
                connection.execute(sa.update(doubts).where(*same).values(kept))


def repair(connection: sa.Connection, lost: Sequence[Batch], now: float) -> None:
    """Whoever held these batches once is back, and may have written them meanwhile: what stands is to be written again."""
    for batch in lost:
        if batch.kind is JobKind.REINDEX:
            fill(connection, batch.collection, [document.id for _, document in batch.items])
            continue
        mine = doubts.c.holder == batch.lease, doubts.c.collection == batch.collection, doubts.c.job_id.is_(None)
        ids = connection.execute(sa.select(doubts.c.document_id).where(*mine).order_by(doubts.c.id)).scalars().all()
        if not ids:
            continue
        job = {"id": uuid.uuid4().hex, "collection": batch.collection, "kind": JobKind.REPAIR, "state": JobState.QUEUED}
        times = {"seq": next_number("seq", connection), "created_at": now, "updated_at": now}
        connection.execute(sa.insert(jobs).values(**job, **times, accepted=len(ids)))
        items = pack([(position, Document(key)) for position, key in enumerate(ids)])
        row = {"job_id": job["id"], "collection": batch.collection, "kind": JobKind.REPAIR}
        added = sa.insert(batches).values(**row, size=len(ids), items=items).returning(batches.c.id)
        ordered = {"batch_id": connection.execute(added).scalar_one(), "collection": batch.collection}
        connection.execute(sa.insert(pending), [{**ordered, "document_id": key} for key in ids])
        connection.execute(sa.update(doubts).where(*mine).values(job_id=job["id"]))
        follow(connection, batch, ids)  # it may have written to what is the other generation by now


def _last(batch: Batch) -> dict[str, Item]:
    """Of several documents with one id the last counts."""
    return {document.id: (position, document) for position, document in batch.items}
