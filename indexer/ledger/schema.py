"""The ledger's tables as they are now; `migrations` brings older ones here."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

collections = sa.Table(
    "collections",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("dimensions", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("instruction", sa.String),
    sa.Column("generation", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("paused", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("settings", sa.String, nullable=False, default="{}", server_default="{}"),  # JSON: what can be added to
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
    sa.Column("seq", sa.Integer, unique=True),  # the order of acceptance; null while the job is still being received
    sa.Column("accepted", sa.Integer, nullable=False, default=0),
    sa.Column("indexed", sa.Integer, nullable=False, default=0),
    sa.Column("skipped", sa.Integer, nullable=False, default=0),
    sa.Column("failed", sa.Integer, nullable=False, default=0),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("waiting_on", sa.String),
    sa.Column("idempotency_key", sa.String),
    sa.Column("body_hash", sa.String),
    sa.Column("cancelled", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("cancelling", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("finished_at", sa.Float),
    sa.Column("retry_of", sa.String),  # a job, which may be gone by now
    sa.Column("trace", sa.String),  # W3C trace parent of the request that brought it
    sa.Column("source", sa.String),  # JSON: what an import reads
    sa.Column("growing", sa.Boolean, nullable=False, default=False, server_default=sa.false()),  # more will be accepted
    sa.Column("unread", sa.Integer, nullable=False, default=0, server_default="0"),  # of the accepted, still in files
    sa.Column("started_at", sa.Float),  # of an import
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
    sa.Column("size", sa.Integer, nullable=False),  # items left
    sa.Column("items", sa.String, nullable=False),  # JSON; emptied as they are done
    sa.Column("outcomes", sa.String, nullable=False, default="[]"),  # JSON
    sa.Column("done", sa.Boolean, nullable=False, default=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("releases", sa.Integer, nullable=False, default=0),
    sa.Column("lease", sa.String),  # whose it is: a random word for each claim
    sa.Column("lease_until", sa.Float, nullable=False, default=0.0),
    sa.Column("not_before", sa.Float, nullable=False, default=0.0),
    sa.Column("crashes", sa.Integer, nullable=False, default=0, server_default="0"),  # leases that nobody gave back
    sa.Column("suspect", sa.Integer),  # position of the document that is being tried by itself
    # whether something of it may have been written since it was accepted, or last given back
    sa.Column("touched", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("seq", sa.Integer),  # the order of acceptance, where it is not that of its job
)
sa.Index("batches_open", batches.c.id, sqlite_where=~batches.c.done, postgresql_where=~batches.c.done)
# Written out, not as a parameter: SQLite uses a partial index only for a condition that it can read.
OF_REINDEX = sa.literal_column("batches.kind") == sa.literal_column("'reindex'")
_FILLING = sa.and_(~batches.c.done, sa.literal_column("kind") == sa.literal_column("'reindex'"))
sa.Index("batches_filling", batches.c.id, sqlite_where=_FILLING, postgresql_where=_FILLING)
CRASHED = sa.literal_column("batches.crashes") > sa.literal_column("0")
_CRASHED = sa.and_(~batches.c.done, sa.literal_column("crashes") > sa.literal_column("0"))
sa.Index("batches_crashed", batches.c.id, sqlite_where=_CRASHED, postgresql_where=_CRASHED)

# What else waits with a batch that met the trouble of its whole collection: a row here, for SQLite writes a batch anew with all its
# text when anything of it changes.
holds = sa.Table(
    "holds",
    metadata,
    sa.Column("collection", sa.ForeignKey(collections.c.name, ondelete="CASCADE"), primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
)

# Which documents the unfinished batches will write: what keeps writes of one document in order.
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
    sa.Column("item", sa.String),  # JSON, for a retry; null once a later write of the document makes that wrong
    sa.Column("step_id", sa.Integer),  # of an import, where the record itself could not be read
)
sa.Index(
    "failures_by_document",
    failures.c.collection,
    failures.c.document_id,
    sqlite_where=failures.c.item.is_not(None),
    postgresql_where=failures.c.item.is_not(None),
)

# What is to be done of imports: first planning, where `unit` is null, then a step for each unit.
steps = sa.Table(
    "steps",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("unit", sa.String),  # JSON
    sa.Column("only", sa.String),  # JSON: the positions that are wanted; null: all
    sa.Column("first", sa.Integer, nullable=False, default=0, server_default="0"),  # position of the first record
    sa.Column("size", sa.Integer, nullable=False, default=0, server_default="0"),  # records wanted
    sa.Column("read", sa.Integer, nullable=False, default=0, server_default="0"),  # of them; of planning what it found
    sa.Column("done", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("releases", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("crashes", sa.Integer, nullable=False, default=0, server_default="0"),
    sa.Column("lease", sa.String),
    sa.Column("lease_until", sa.Float, nullable=False, default=0.0, server_default="0"),
    sa.Column("not_before", sa.Float, nullable=False, default=0.0, server_default="0"),
)
sa.Index("steps_open", steps.c.id, sqlite_where=~steps.c.done, postgresql_where=~steps.c.done)

# Documents of batches that were taken from a holder who may still be writing them, and the last write of each since.
doubts = sa.Table(
    "doubts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("holder", sa.String, nullable=False, index=True),  # the lease it had
    sa.Column("collection", sa.ForeignKey(collections.c.name, ondelete="CASCADE"), nullable=False),
    sa.Column("document_id", sa.String, nullable=False, index=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("kind", sa.String),  # of the job of that write
    sa.Column("item", sa.String),  # JSON
    sa.Column(
        "job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), index=True
    ),  # the repair, when the holder is back
)

# What one process of all does now and then.
chores = sa.Table(
    "chores",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("begun_at", sa.Float, nullable=False),
)

# The other generation of a collection, while there is one.
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
    sa.Column("expected", sa.Integer, nullable=False, default=0),  # of the job's accepted documents: not scanned yet
    sa.Column("passes", sa.Integer, nullable=False, default=1),
    sa.Column("max_failures", sa.Integer, nullable=False, default=0),
    sa.Column("until", sa.Float),
)

# The last `jobs.seq`, and the last generation's number. Whoever accepts a job holds its lock until the commit, so jobs become
# visible in this order.
counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
