"""The tables of the ledger. A change of them needs a new step in `indexer.ledger.sql.migrations`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


def _lease_columns() -> list[sa.Column[Any]]:
    """Return the columns of what workers lease; `indexer.ledger.sql.leases` reads and writes them."""
    return [
        # A random word for each claim; null: nobody holds the row.
        sa.Column("lease", sa.String),
        sa.Column("lease_until", sa.Float, nullable=False, default=0.0),
        # The length of the lease.
        sa.Column("lease_s", sa.Float, nullable=False, default=0.0),
        # When the row may be claimed again.
        sa.Column("not_before", sa.Float, nullable=False, default=0.0),
        # The length of that wait.
        sa.Column("wait_s", sa.Float, nullable=False, default=0.0),
        # How often it was given back because something else was unavailable.
        sa.Column("releases", sa.Integer, nullable=False, default=0),
        # How many of its leases ended without being given back since its last progress.
        sa.Column("crashes", sa.Integer, nullable=False, default=0),
    ]


collections = sa.Table(
    "collections",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("dimensions", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("instruction", sa.String),
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    sa.Column("paused", sa.Boolean, nullable=False, default=False),
    # JSON: the default limit of searches, the declared metadata fields, in which precisions it was filled, and how
    # texts are cut.
    sa.Column("settings", sa.String, nullable=False, default="{}"),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("collection", sa.ForeignKey(collections.c.name, ondelete="CASCADE"), nullable=False, index=True),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("collection", sa.ForeignKey(collections.c.name, ondelete="CASCADE"), nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    # The order of acceptance; null while the job is still being received.
    sa.Column("seq", sa.Integer, unique=True),
    sa.Column("accepted", sa.Integer, nullable=False, default=0),
    sa.Column("indexed", sa.Integer, nullable=False, default=0),
    sa.Column("skipped", sa.Integer, nullable=False, default=0),
    sa.Column("failed", sa.Integer, nullable=False, default=0),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("waiting_on", sa.String),
    sa.Column("idempotency_key", sa.String),
    sa.Column("body_hash", sa.String),
    sa.Column("cancelled", sa.Integer, nullable=False, default=0),
    sa.Column("cancelling", sa.Boolean, nullable=False, default=False),
    sa.Column("finished_at", sa.Float),
    # The id of another job, which may have been forgotten meanwhile.
    sa.Column("retry_of", sa.String),
    # The W3C trace parent of the request that made the job.
    sa.Column("trace", sa.String),
    # JSON: the URI, format and mapping of an import.
    sa.Column("source", sa.String),
    # Whether an import is still being planned, so that `accepted` will grow.
    sa.Column("growing", sa.Boolean, nullable=False, default=False),
    # How many of the accepted records of an import are not read yet.
    sa.Column("unread", sa.Integer, nullable=False, default=0),
    # When an import was first claimed.
    sa.Column("started_at", sa.Float),
    # Indexed documents of whose text a part has no embedding.
    sa.Column("truncated", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.UniqueConstraint("collection", "idempotency_key"),
)
sa.Index(
    "jobs_open", jobs.c.seq, sqlite_where=jobs.c.finished_at.is_(None), postgresql_where=jobs.c.finished_at.is_(None)
)
sa.Index("jobs_finished", jobs.c.finished_at)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("collection", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    # The number of items.
    sa.Column("size", sa.Integer, nullable=False),
    # JSON: the documents that have no outcome yet.
    sa.Column("items", sa.String, nullable=False),
    # JSON: the outcomes so far.
    sa.Column("outcomes", sa.String, nullable=False, default="[]"),
    sa.Column("done", sa.Boolean, nullable=False, default=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    *_lease_columns(),
    # The position of the document that is being tried alone.
    sa.Column("suspect", sa.Integer),
    # Whether its documents may have been written to the store since it was accepted or last released.
    sa.Column("touched", sa.Boolean, nullable=False, default=False),
    # The order of acceptance of a batch of an import; null: that of its job.
    sa.Column("seq", sa.Integer),
)
sa.Index("batches_open", batches.c.id, sqlite_where=~batches.c.done, postgresql_where=~batches.c.done)
# Literals, not parameters: SQLite uses a partial index only for a condition that it can read.
OF_REINDEX = sa.literal_column("batches.kind") == sa.literal_column("'reindex'")
_FILLING = sa.and_(~batches.c.done, sa.literal_column("kind") == sa.literal_column("'reindex'"))
sa.Index("batches_filling", batches.c.id, sqlite_where=_FILLING, postgresql_where=_FILLING)
CRASHED = sa.literal_column("batches.crashes") > sa.literal_column("0")
_CRASHED = sa.and_(~batches.c.done, sa.literal_column("crashes") > sa.literal_column("0"))
sa.Index("batches_crashed", batches.c.id, sqlite_where=_CRASHED, postgresql_where=_CRASHED)

# Batches of a collection and a kind that wait because one of them met a problem of the whole collection. They are not
# updated themselves, because SQLite rewrites a batch with all its text when any column changes.
holds = sa.Table(
    "holds",
    metadata,
    sa.Column("collection", sa.ForeignKey(collections.c.name, ondelete="CASCADE"), primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
    # The length of the wait.
    sa.Column("wait_s", sa.Float, nullable=False),
)

# The documents that unfinished batches will write. It keeps the writes of one document in order.
pending = sa.Table(
    "pending",
    metadata,
    sa.Column("batch_id", sa.ForeignKey(batches.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("document_id", sa.String, primary_key=True),
    sa.Column("collection", sa.String, nullable=False),
    sa.Index("pending_by_document", "collection", "document_id"),
)

failures = sa.Table(
    "failures",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("document_id", sa.String, nullable=False),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
    sa.Column("collection", sa.String),
    # JSON: the document, for a retry; null when a later write of the document was settled.
    sa.Column("item", sa.String),
    # The step of an import whose record could not be read.
    sa.Column("step_id", sa.Integer),
)
sa.Index(
    "failures_by_document",
    failures.c.collection,
    failures.c.document_id,
    sqlite_where=failures.c.item.is_not(None),
    postgresql_where=failures.c.item.is_not(None),
)

# Steps of imports: one of planning, whose `unit` is null, then one for each unit of the files.
steps = sa.Table(
    "steps",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    # JSON: the part of a file that is read.
    sa.Column("unit", sa.String),
    # JSON: the positions to read in a retry; null: all.
    sa.Column("only", sa.String),
    # The position of the first record.
    sa.Column("first", sa.Integer, nullable=False, default=0),
    # The number of records to read.
    sa.Column("size", sa.Integer, nullable=False, default=0),
    # The number of records that were read; in planning, that were counted.
    sa.Column("read", sa.Integer, nullable=False, default=0),
    sa.Column("done", sa.Boolean, nullable=False, default=False),
    *_lease_columns(),
)
sa.Index("steps_open", steps.c.id, sqlite_where=~steps.c.done, postgresql_where=~steps.c.done)

# Doubtful documents: their batch was taken from a worker that may still be writing it. `kind` and `item` are the last
# write since.
doubts = sa.Table(
    "doubts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    # The lease of that worker.
    sa.Column("holder", sa.String, nullable=False, index=True),
    sa.Column("collection", sa.ForeignKey(collections.c.name, ondelete="CASCADE"), nullable=False),
    sa.Column("document_id", sa.String, nullable=False, index=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("kind", sa.String),
    # JSON.
    sa.Column("item", sa.String),
    # The repair job, once that worker has reported back.
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), index=True),
)

# Periodic tasks that one process of all runs, and when each last began.
chores = sa.Table(
    "chores",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("begun_at", sa.Float, nullable=False),
)

# The other generation of a collection, while there is one: the one being filled, or the previous one.
reindexes = sa.Table(
    "reindexes",
    metadata,
    sa.Column("collection", sa.ForeignKey(collections.c.name, ondelete="CASCADE"), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("dimensions", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, default=1),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("cursor", sa.String),
    sa.Column("scanned", sa.Boolean, nullable=False, default=False),
    # How many of the job's accepted documents are not scanned yet.
    sa.Column("expected", sa.Integer, nullable=False, default=0),
    sa.Column("passes", sa.Integer, nullable=False, default=1),
    sa.Column("max_failures", sa.Integer, nullable=False, default=0),
    sa.Column("until", sa.Float),
)

# The last `jobs.seq` and the last number of a generation.
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
