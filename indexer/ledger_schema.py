"""The ledger's tables, and how its database is opened."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from model.errors import Conflict

# Raise it when a table changes: there are no migrations yet, so what another version wrote is refused, not misread.
SCHEMA_VERSION = 1

_tables = sa.MetaData()

collections = sa.Table(
    "collections",
    _tables,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("dimensions", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("instruction", sa.String),
)

jobs = sa.Table(
    "jobs",
    _tables,
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
    sa.UniqueConstraint("collection", "idempotency_key"),
)

batches = sa.Table(
    "batches",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("collection", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),  # items left
    sa.Column("items", sa.String, nullable=False),  # JSON; emptied as they are done
    sa.Column("outcomes", sa.String, nullable=False, default="[]"),  # JSON
    sa.Column("done", sa.Boolean, nullable=False, default=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("releases", sa.Integer, nullable=False, default=0),
    sa.Column("lease", sa.String),  # whose it is: a random word for each claim
    sa.Column("lease_until", sa.Float, nullable=False, default=0.0),
    sa.Column("not_before", sa.Float, nullable=False, default=0.0),
)

# Which documents the unfinished batches will write: what keeps writes of one document in order.
pending = sa.Table(
    "pending",
    _tables,
    sa.Column("batch_id", sa.ForeignKey(batches.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("document_id", sa.String, primary_key=True),
    sa.Column("collection", sa.String, nullable=False),
    sa.Index("pending_by_document", "collection", "document_id"),
)

failures = sa.Table(
    "failures",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("document_id", sa.String, nullable=False),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
)


def connect(url: str) -> sa.Engine:
    """An engine with its tables made. What runs under the execution option `immediate` takes SQLite's write lock as it begins."""
    engine = sa.create_engine(url, connect_args={"check_same_thread": False, "timeout": 30, "isolation_level": None})
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin)
    with engine.begin() as connection:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        empty = not sa.inspect(connection).get_table_names()
        if not empty and version != SCHEMA_VERSION:
            engine.dispose()
            raise Conflict(
                f"ledger {engine.url.database} has schema {version}, this version of ret2 reads {SCHEMA_VERSION}; "
                "use another data folder, or the version that wrote it"
            )
        _tables.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads before it writes would else fail, not wait, when another one wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")
