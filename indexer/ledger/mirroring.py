"""What was written to a collection is brought to its other generation too: its ids become a batch of the reindex."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from indexer.domain.collections import ReindexState
from indexer.domain.documents import Document
from indexer.domain.jobs import Batch, JobKind
from indexer.ledger.rows import pack
from indexer.ledger.schema import batches, jobs, reindexes


def follow(connection: sa.Connection, written: Batch, document_ids: Iterable[str]) -> None:
    """Part of the transaction that says what became of `written`: a write is either followed or done again.

    Whoever reads no reindex here wrote before there was one, so that its scan comes later and finds what was written.
    """
    if written.kind is not JobKind.REINDEX:
        fill(connection, written.collection, document_ids)


def fill(connection: sa.Connection, collection: str, document_ids: Iterable[str]) -> None:
    """The other generation is to be made equal for these documents, where there is one."""
    wanted = reindexes.c.collection == collection, reindexes.c.state != ReindexState.DROPS
    if (reindex := connection.execute(sa.select(reindexes).where(*wanted)).one_or_none()) is not None:
        add_fill(connection, reindex.job_id, collection, list(dict.fromkeys(document_ids)), reindex.expected)


def add_fill(
    connection: sa.Connection, job_id: str, collection: str, document_ids: list[str], expected: int, *, counted: int = 0
) -> None:
    """One more batch of a reindex job, `counted` documents of which are among its accepted ones already."""
    if not document_ids:
        return
    more = jobs.c.accepted + len(document_ids) - counted
    grown = sa.update(jobs).where(jobs.c.id == job_id, jobs.c.finished_at.is_(None)).values(accepted=more)
    accepted = connection.execute(grown.returning(jobs.c.accepted)).scalar_one_or_none()
    first = (accepted or 0) - (expected - counted) - len(document_ids) if accepted else 0
    items = [(first + place, Document(key)) for place, key in enumerate(document_ids)]
    row = {"job_id": job_id, "collection": collection, "kind": JobKind.REINDEX}
    connection.execute(sa.insert(batches).values(**row, size=len(items), items=pack(items)))
