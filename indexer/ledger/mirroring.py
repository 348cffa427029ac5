"""Mirroring: each write to a collection is repeated in its other generation, by a batch of the reindex."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from indexer.domain.collections import ReindexState
from indexer.domain.documents import Document
from indexer.domain.jobs import REWRITING, Batch, JobKind
from indexer.ledger.sql.rows import pack
from indexer.ledger.sql.schema import batches, jobs, reindexes


def mirror(connection: sa.Connection, written: Batch, document_ids: Iterable[str]) -> None:
    """Mirror the writes of a batch in the transaction that records its outcomes, so that a write is either mirrored or
    repeated.

    A transaction that sees no reindex wrote before it began, so the reindex's scan comes later and finds the write.
    """
    if written.kind is not JobKind.REINDEX:
        mirror_documents(connection, written.collection, document_ids)


def mirror_documents(
    connection: sa.Connection, collection: str, document_ids: Iterable[str], *, rewriting: bool = False
) -> None:
    """Add a batch that makes the other generation equal for these documents, if there is another generation. With
    `rewriting` it writes those too that seem to be equal."""
    serving = reindexes.c.collection == collection, reindexes.c.state != ReindexState.DROPPING
    if (reindex := connection.execute(sa.select(reindexes).where(*serving)).one_or_none()) is not None:
        ids = list(dict.fromkeys(document_ids))
        add_reindex_batch(connection, reindex.job_id, collection, ids, reindex.expected, rewriting=rewriting)


def add_reindex_batch(
    connection: sa.Connection,
    job_id: str,
    collection: str,
    document_ids: list[str],
    expected: int,
    *,
    counted: int = 0,
    rewriting: bool = False,
) -> None:
    """Add a batch to a reindex job. `counted` of its documents are already among the job's accepted ones."""
    if not document_ids:
        return
    total = jobs.c.accepted + len(document_ids) - counted
    grown = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.finished_at.is_(None)).values(accepted=total)
    accepted = connection.execute(grown.returning(jobs.c.accepted)).scalar_one_or_none()
    first = (accepted or 0) - (expected - counted) - len(document_ids) if accepted else 0
    metadata = {REWRITING: True} if rewriting else {}
    items = [(first + place, Document(key, metadata=metadata)) for place, key in enumerate(document_ids)]
    row = {"job_id": job_id, "collection": collection, "kind": JobKind.REINDEX}
    connection.execute(sa.insert(batches).values(**row, size=len(items), items=pack(items)))
