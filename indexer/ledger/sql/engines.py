"""The engine of the ledger's database, SQLite or PostgreSQL, and what its errors mean for an operator."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError

from model.errors import DependencyUnavailable, InvalidInput, RetrievalError

# Threads, and connections, of an open ledger. SQLite has one writer, so further threads would only wait.
THREADS = {"sqlite": 4, "postgresql": 8}
_CONNECT_S = 5
_LOCK_WAIT_S = 30
_STATEMENT_MS = 30_000
# How long a process waits for another one that is migrating.
_MIGRATION_S = 3600
_WAL_TRIES = 5
# SQLSTATEs of a transaction that another one went before.
_DEADLOCKS = frozenset({"40001", "40P01"})
# What SQLite's primary result codes mean, by the beginning of their names.
_SQLITE_REASONS = {
    "SQLITE_NOTADB": "it is not an SQLite database. Give another data folder, or restore a backup",
    "SQLITE_CORRUPT": "it is damaged. Restore a backup",
    "SQLITE_READONLY": "it cannot be written: the file, its folder or the disk is read-only",
    "SQLITE_CANTOPEN": "it cannot be opened: its folder is missing, or the rights do not allow it",
    "SQLITE_PERM": "the rights do not allow it",
    "SQLITE_BUSY": f"another process has locked it for more than {_LOCK_WAIT_S} s",
}
_DAMAGED = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_POSTGRESQL_REASONS = {
    "25006": "it is read-only, such as a standby",
    "28P01": "it refuses the password",
    "28000": "it refuses the user",
    "3D000": "there is no such database",
    "42501": "the user lacks a privilege",
    "53100": "its disk is full",
    "53300": "it has too many connections",
    "57014": f"a statement took more than {_STATEMENT_MS // 1000} s",
    "XX001": "its data is damaged",
    "XX002": "an index of it is damaged",
}


class Deadlock(DependencyUnavailable):
    """Two transactions waited for each other, and this one was given up."""


class Damaged(DependencyUnavailable):
    """The file is not a database, or parts of it cannot be read."""


def make_engine(url: str, *, migrating: bool = False) -> sa.Engine:
    """Return the engine of a database URL. Transactions under the execution option `immediate` take SQLite's write lock
    at once.

    An engine that is `migrating` does so always, waits for other processes that migrate, has no statement time-out, and
    leaves SQLite's foreign keys unenforced.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        # The cause quotes the URL with its password.
        raise InvalidInput("the ledger's address is not a database URL") from None
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, migrating)
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidInput(f"the ledger's address begins with {parsed.drivername}, it must be postgresql or sqlite")
    try:
        return _postgresql_engine(parsed, migrating)
    except ImportError as error:
        raise InvalidInput("PostgreSQL needs the package psycopg: install ret2[postgres]") from error


def display_name(engine: sa.Engine) -> str:
    """Return where a database is, for messages: without user, password and options."""
    url = engine.url
    port = f":{url.port}" if url.port else ""
    return f"{url.host}{port}/{url.database}" if url.host else str(url.database)


def translate(error: SQLAlchemyError, engine: sa.Engine) -> RetrievalError | IntegrityError:
    """Return our error for one of a driver. An `IntegrityError` stays as it is: callers know what was taken or missing.

    PostgreSQL's own words are never used, because they may hold the address with its password, or documents.
    """
    if isinstance(error, IntegrityError):
        return error
    if isinstance(error, DataError):
        return InvalidInput("the ledger's database cannot hold a value of this, such as a zero byte")
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error):
        return _sqlite_error(cause, display_name(engine))
    sqlstate = getattr(cause, "sqlstate", None) or ""
    reason = _POSTGRESQL_REASONS.get(sqlstate) or f"{type(error).__name__} {sqlstate}".strip()
    kind = Deadlock if sqlstate in _DEADLOCKS else DependencyUnavailable
    return kind(f"the ledger's database {display_name(engine)} does not answer: {reason}")


def _sqlite_error(cause: sqlite3.Error, path: str) -> DependencyUnavailable:
    code = getattr(cause, "sqlite_errorname", "") or ""
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        free = ""
        with suppress(OSError):
            free = f": {shutil.disk_usage(Path(path).parent).free} bytes free"
        reason = f"the disk is full{free}" if code == "SQLITE_FULL" else f"the disk fails ({code}){free}"
    else:
        reason = next((text for name, text in _SQLITE_REASONS.items() if code.startswith(name)), str(cause))
    kind = Damaged if code.startswith(_DAMAGED) else DependencyUnavailable
    return kind(f"ledger {path}: {reason}")


def _sqlite_engine(url: sa.URL, migrating: bool) -> sa.Engine:
    wait_s = _MIGRATION_S if migrating else _LOCK_WAIT_S
    options = {"check_same_thread": False, "timeout": wait_s, "isolation_level": None}
    engine = sa.create_engine(url, connect_args=options, hide_parameters=True)

    def set_up(connection: Any, _record: Any) -> None:
        _to_wal(connection)
        for pragma in ("synchronous=FULL", f"foreign_keys={'OFF' if migrating else 'ON'}"):
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: sa.Connection) -> None:
        # A transaction that reads before it writes would fail, not wait, when another one wrote in between.
        immediate = migrating or connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    sa.event.listen(engine, "connect", set_up)
    sa.event.listen(engine, "begin", begin)
    return engine


def _postgresql_engine(url: sa.URL, migrating: bool) -> sa.Engine:
    statement_ms = 0 if migrating else _STATEMENT_MS
    return sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        # No prepared statements: a pooler between, such as pgbouncer, may not know them.
        connect_args={"connect_timeout": _CONNECT_S, "prepare_threshold": None, "application_name": "ret2"}
        | {"options": f"-c statement_timeout={statement_ms}", "tcp_user_timeout": _STATEMENT_MS}
        # The system's own patience with a machine that vanished is two hours.
        | {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4},
        pool_size=1 if migrating else THREADS["postgresql"],
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _to_wal(connection: Any) -> None:
    """Turn a file to WAL. SQLite does not wait where several connections do so with a new file: one is told that it is
    locked."""
    for _ in range(_WAL_TRIES - 1):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if not (getattr(error, "sqlite_errorname", "") or "").startswith("SQLITE_BUSY"):
                raise
            time.sleep(0.05)
        else:
            return
    connection.execute("PRAGMA journal_mode=WAL")
