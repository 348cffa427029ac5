"""From any schema to any other, forward by itself and back when asked, in one transaction and under a lock: of many processes one
does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from indexer.ledger.schema import counters, jobs, metadata
from model.errors import Conflict, InvalidInput

_LOCK = 0x72657432  # "ret2", of PostgreSQL's advisory locks


def _create_steps(connection: sa.Connection) -> None:
    key = "SERIAL" if connection.dialect.name == "postgresql" else "INTEGER"
    connection.exec_driver_sql(f"""CREATE TABLE steps (
        id {key} NOT NULL,
        job_id VARCHAR NOT NULL,
        unit VARCHAR,
        "only" VARCHAR,
        first INTEGER NOT NULL DEFAULT 0,
        size INTEGER NOT NULL DEFAULT 0,
        read INTEGER NOT NULL DEFAULT 0,
        done BOOLEAN NOT NULL DEFAULT FALSE,
        releases INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        lease VARCHAR,
        lease_until FLOAT NOT NULL DEFAULT 0,
        not_before FLOAT NOT NULL DEFAULT 0,
        PRIMARY KEY (id),
        FOREIGN KEY (job_id) REFERENCES jobs (id) ON DELETE CASCADE
    )""")


def _create_doubts(connection: sa.Connection) -> None:
    key = "SERIAL" if connection.dialect.name == "postgresql" else "INTEGER"
    connection.exec_driver_sql(f"""CREATE TABLE doubts (
        id {key} NOT NULL,
        holder VARCHAR NOT NULL,
        collection VARCHAR NOT NULL,
        document_id VARCHAR NOT NULL,
        since FLOAT NOT NULL,
        kind VARCHAR,
        item VARCHAR,
        job_id VARCHAR,
        PRIMARY KEY (id),
        FOREIGN KEY (collection) REFERENCES collections (name) ON DELETE CASCADE,
        FOREIGN KEY (job_id) REFERENCES jobs (id) ON DELETE CASCADE
    )""")


# What leads to each version from the one before. A step is SQL for both databases, or a function. Never change one that is released.
Step = str | Callable[[sa.Connection], None]
MIGRATIONS: Mapping[int, Sequence[Step]] = {
    2: (
        "ALTER TABLE jobs ADD COLUMN cancelled INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN cancelling BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE jobs ADD COLUMN finished_at FLOAT",
        "ALTER TABLE jobs ADD COLUMN retry_of VARCHAR",
        "UPDATE jobs SET finished_at = updated_at WHERE state IN ('succeeded', 'succeeded_with_failures', 'failed')",
        "CREATE INDEX jobs_open ON jobs (seq) WHERE finished_at IS NULL",
        "CREATE INDEX jobs_finished ON jobs (finished_at)",
        "ALTER TABLE batches ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE batches ADD COLUMN suspect INTEGER",
        "DROP INDEX ix_batches_done",
        "CREATE INDEX batches_open ON batches (id) WHERE NOT done",
        "ALTER TABLE failures ADD COLUMN collection VARCHAR",
        "ALTER TABLE failures ADD COLUMN item VARCHAR",  # what failed before cannot be retried: its content was not kept
        "CREATE INDEX failures_by_document ON failures (collection, document_id) WHERE item IS NOT NULL",
        "CREATE TABLE counters (name VARCHAR NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name))",
        "INSERT INTO counters (name, value) SELECT 'seq', coalesce(max(seq), 0) FROM jobs",
    ),
    3: (
        "ALTER TABLE collections ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE collections ADD COLUMN paused BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE batches ADD COLUMN touched BOOLEAN NOT NULL DEFAULT FALSE",
        "UPDATE batches SET touched = TRUE WHERE NOT done",
        "CREATE INDEX batches_filling ON batches (id) WHERE NOT done AND kind = 'reindex'",
        """CREATE TABLE reindexes (
            collection VARCHAR NOT NULL,
            generation INTEGER NOT NULL,
            fingerprint VARCHAR NOT NULL,
            model VARCHAR NOT NULL,
            dimensions INTEGER NOT NULL,
            state VARCHAR NOT NULL,
            version INTEGER NOT NULL,
            job_id VARCHAR NOT NULL,
            since FLOAT NOT NULL,
            cursor VARCHAR,
            scanned BOOLEAN NOT NULL,
            expected INTEGER NOT NULL,
            passes INTEGER NOT NULL,
            max_failures INTEGER NOT NULL,
            until FLOAT,
            PRIMARY KEY (collection),
            FOREIGN KEY (collection) REFERENCES collections (name) ON DELETE CASCADE,
            FOREIGN KEY (job_id) REFERENCES jobs (id) ON DELETE CASCADE
        )""",
        "INSERT INTO counters (name, value) VALUES ('generation', 0)",
    ),
    4: (
        "ALTER TABLE collections ADD COLUMN settings VARCHAR NOT NULL DEFAULT '{}'",
        "CREATE TABLE aliases (name VARCHAR NOT NULL, collection VARCHAR NOT NULL, PRIMARY KEY (name), "
        "FOREIGN KEY (collection) REFERENCES collections (name) ON DELETE CASCADE)",
        "CREATE INDEX ix_aliases_collection ON aliases (collection)",
    ),
    5: ("CREATE TABLE chores (name VARCHAR NOT NULL, begun_at FLOAT NOT NULL, PRIMARY KEY (name))",),
    6: ("ALTER TABLE jobs ADD COLUMN trace VARCHAR",),
    7: (
        "ALTER TABLE jobs ADD COLUMN source VARCHAR",
        "ALTER TABLE jobs ADD COLUMN growing BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE jobs ADD COLUMN unread INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN started_at FLOAT",
        "ALTER TABLE batches ADD COLUMN seq INTEGER",
        "ALTER TABLE failures ADD COLUMN step_id INTEGER",
        _create_steps,
        "CREATE INDEX ix_steps_job_id ON steps (job_id)",
        "CREATE INDEX steps_open ON steps (id) WHERE NOT done",
    ),
    8: (
        "CREATE INDEX batches_crashed ON batches (id) WHERE NOT done AND crashes > 0",
        "CREATE TABLE holds (collection VARCHAR NOT NULL, kind VARCHAR NOT NULL, until FLOAT NOT NULL, "
        "PRIMARY KEY (collection, kind), FOREIGN KEY (collection) REFERENCES collections (name) ON DELETE CASCADE)",
    ),
    9: (
        _create_doubts,
        "CREATE INDEX ix_doubts_holder ON doubts (holder)",
        "CREATE INDEX ix_doubts_document_id ON doubts (document_id)",
        "CREATE INDEX ix_doubts_job_id ON doubts (job_id)",
    ),
}
NEWEST = max(MIGRATIONS)


@dataclass(frozen=True, slots=True)
class Back:
    """What leads from a version to the one before. `unless`: conditions on tables under which that would lose or spoil work, and what
    to do about each. `loses` is told to whoever asked for it: kinds and states that the version before cannot read are deleted."""

    steps: Sequence[str]
    unless: Mapping[str, str] = field(default_factory=dict)
    loses: str = ""


def _without(table: str, *columns: str) -> Sequence[str]:
    return [f"ALTER TABLE {table} DROP COLUMN {column}" for column in columns]


BACK: Mapping[int, Back] = {
    9: Back(
        ("DELETE FROM jobs WHERE kind = 'repair'", "DROP TABLE doubts"),
        {
            "jobs WHERE kind = 'repair' AND seq IS NOT NULL AND finished_at IS NULL": "repairs are unfinished; let them end"
        },
        loses="finished repairs are no longer listed, and a write that comes too late is not made good",
    ),
    8: Back(("DROP TABLE holds", "DROP INDEX batches_crashed")),
    7: Back(
        (
            "DELETE FROM jobs WHERE kind = 'import'",
            "DROP TABLE steps",
            *_without("jobs", "source", "growing", "unread", "started_at"),
            *_without("batches", "seq"),
            *_without("failures", "step_id"),
        ),
        {
            "jobs WHERE kind = 'import' AND seq IS NOT NULL AND finished_at IS NULL": "imports are unfinished; let them end or cancel them"
        },
        loses="finished imports, with their failures, are no longer listed",
    ),
    6: Back(_without("jobs", "trace"), loses="unfinished jobs are no longer in the traces of their requests"),
    5: Back(("DROP TABLE chores",)),
    4: Back(
        ("DROP TABLE aliases", *_without("collections", "settings")),
        loses="aliases, declared metadata fields and default limits of collections",
    ),
    3: Back(
        (
            "DELETE FROM jobs WHERE kind = 'reindex'",
            "DROP TABLE reindexes",
            "DROP INDEX batches_filling",
            *_without("collections", "generation", "paused"),
            *_without("batches", "touched"),
            "DELETE FROM counters WHERE name = 'generation'",
        ),
        {
            "reindexes": "reindexes are not over; finish or abort them, and wait until what they leave is deleted",
            "collections WHERE generation > 0 OR paused": "collections have been reindexed; the version before would not find their points",
        },
        loses="finished reindexes are no longer listed",
    ),
    2: Back(
        (
            "DELETE FROM jobs WHERE cancelling OR cancelled > 0 OR state = 'cancelled'",
            "DROP INDEX jobs_open",
            "DROP INDEX jobs_finished",
            "DROP INDEX batches_open",
            "DROP INDEX failures_by_document",
            *_without("jobs", "cancelled", "cancelling", "finished_at", "retry_of"),
            *_without("batches", "crashes", "suspect"),
            *_without("failures", "collection", "item"),
            "CREATE INDEX ix_batches_done ON batches (done)",
            "DROP TABLE counters",
        ),
        {
            "jobs WHERE seq IS NOT NULL AND finished_at IS NULL AND (cancelling OR cancelled > 0)": "jobs are being cancelled; "
            "let that end"
        },
        loses="cancelled jobs are no longer listed, and what failed cannot be tried again",
    ),
}


def losses(before: int, after: int) -> Iterator[str]:
    """What going back has cost."""
    yield from (BACK[version].loses for version in range(before, after, -1) if BACK[version].loses)


def migrate(connection: sa.Connection, where: str, to: int = NEWEST) -> int:
    """The version before, 0 where there was no ledger. Raises `Conflict` for a schema that is newer than this program, and where going
    back would lose work; nothing is changed then."""
    if not 1 <= to <= NEWEST:
        raise InvalidInput(f"there is no schema {to}, this version of ret2 knows those from 1 to {NEWEST}")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large table, or waiting for whoever is at it
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    version = _version(connection)
    if version > NEWEST:
        raise Conflict(
            f"ledger {where} has schema {version}, this version of ret2 reads up to {NEWEST}; "
            f"use the version that wrote it, which brings it back by `ret2 migrate --to {NEWEST}`, or another data folder or database"
        )
    if version == 0:
        metadata.create_all(connection)
        connection.execute(sa.insert(counters), [{"name": name, "value": 0} for name in ("seq", "generation")])
    for following in range(version + 1, to + 1) if version else ():
        _step_to(connection, following)
    for newer in range(version or NEWEST, to, -1):
        _step_back_from(connection, newer, where)
    if version != to:
        _set_version(connection, to)
    return version


def _step_to(connection: sa.Connection, version: int) -> None:
    for step in MIGRATIONS[version]:
        if isinstance(step, str):
            connection.exec_driver_sql(step)
        else:
            step(connection)


def _step_back_from(connection: sa.Connection, version: int, where: str) -> None:
    back = BACK[version]
    if connection.dialect.name == "postgresql":
        # From the look at what is unfinished to the end nothing is accepted, whoever still runs.
        connection.exec_driver_sql("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    for condition, why in back.unless.items():
        if count := connection.exec_driver_sql(f"SELECT count(*) FROM {condition}").scalar_one():
            raise Conflict(f"ledger {where} stays as it is, schema {version - 1} would lose work: {count} {why}")
    for step in back.steps:
        connection.exec_driver_sql(step)


def _version(connection: sa.Connection) -> int:
    """0 where there is no ledger yet."""
    if connection.dialect.name == "sqlite":
        version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        return version if version or not sa.inspect(connection).has_table(jobs.name) else 1
    if not sa.inspect(connection).has_table("ledger_schema"):
        return 1 if sa.inspect(connection).has_table(jobs.name) else 0
    return int(connection.exec_driver_sql("SELECT version FROM ledger_schema").scalar_one())


def _set_version(connection: sa.Connection, version: int) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {version}")
        return
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS ledger_schema (version INTEGER NOT NULL)")
    connection.exec_driver_sql("DELETE FROM ledger_schema")
    connection.exec_driver_sql(f"INSERT INTO ledger_schema (version) VALUES ({version})")
