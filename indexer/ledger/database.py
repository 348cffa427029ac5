"""The ledger's database, SQLite or PostgreSQL: opening it, its transactions, its clock. All that differs between the two is here."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError

from indexer.ledger.migrations import NEWEST, migrate
from indexer.observability.watch import NOBODY, Watch
from model.errors import DependencyUnavailable, InvalidInput

P = ParamSpec("P")
T = TypeVar("T")
Self_ = TypeVar("Self_")

_THREADS = {"sqlite": 4, "postgresql": 8}  # of `run`; SQLite has one writer, more would only wait
_CONNECT_S = 5
_STATEMENT_MS = 30_000
_DEADLOCKS = frozenset({"40001", "40P01"})  # SQLSTATE: the other transaction went first
_TRIES = 5


class Database:
    """Safe to use from several threads; whoever made it closes it. Its methods block; `run` runs a
    blocking method off the event loop, in threads that no slow name lookup can hold up.

    The time is the database's own where it is PostgreSQL, so that machines need not agree on it; `clock` is for tests. With another
    `schema` than the newest it can only be closed.
    """

    def __init__(
        self, url: str, *, clock: Callable[[], float] | None = None, watch: Watch = NOBODY, schema: int = NEWEST
    ) -> None:
        self._clock = clock
        self._watch = watch
        self._engine = _engine(url)
        self._writes = self._engine.execution_options(immediate=True)
        self._threads = ThreadPoolExecutor(_THREADS[self._engine.dialect.name], thread_name_prefix="ledger")
        try:
            with self.write() as connection:
                self.schema_before = migrate(connection, self.name, schema)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """Where it is, for messages: without user, password and options."""
        url = self._engine.url
        port = f":{url.port}" if url.port else ""
        return f"{url.host}{port}/{url.database}" if url.host else str(url.database)

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    async def run(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking method in a thread of the ledger, with the context of the caller: its trace and the ids of its log lines."""
        began, failed = time.perf_counter(), False
        try:
            bound = partial(copy_context().run, method, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._threads, bound)
        except DependencyUnavailable:
            failed = True
            raise
        finally:
            self._watch.called_ledger(time.perf_counter() - began, failed=failed)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with _our_errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """All that is read is as it was at one moment."""
        sqlite = self._engine.dialect.name == "sqlite"  # in WAL mode a transaction is that already
        engine = self._engine if sqlite else self._engine.execution_options(isolation_level="REPEATABLE READ")
        with _our_errors(), engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with _our_errors(), self._writes.begin() as connection:
            yield connection

    def now(self, connection: sa.Connection) -> float:
        """Unix seconds."""
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            return time.time()
        return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())


class _Deadlock(DependencyUnavailable):
    """Two transactions waited for each other, and this one was given up."""


def again_on_deadlock(
    method: Callable[Concatenate[Self_, P], T],
) -> Callable[Concatenate[Self_, P], T]:
    """For a method that is one transaction and does nothing else."""

    @wraps(method)
    def tried(self: Self_, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_TRIES - 1):
            try:
                return method(self, *args, **kwargs)
            except _Deadlock:
                continue
        return method(self, *args, **kwargs)

    return tried


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # the caller's: it says what was taken or missing
    except DataError as error:  # another try would end the same way
        raise InvalidInput("the ledger's database cannot hold a value of this, such as a zero byte") from error
    except SQLAlchemyError as error:
        # Only the kind of error: a driver's own words may hold the address with its password, or documents.
        kind = _Deadlock if isinstance(error, DBAPIError) and _sqlstate(error) in _DEADLOCKS else DependencyUnavailable
        raise kind(f"the ledger's database does not answer: {type(error).__name__}") from error


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _engine(url: str) -> sa.Engine:
    """What runs under the execution option `immediate` takes SQLite's write lock as it begins."""
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise InvalidInput(
            "the ledger's address is not a database URL"
        ) from None  # the cause quotes it, password and all
    if parsed.get_backend_name() == "sqlite":
        options = {"check_same_thread": False, "timeout": 30, "isolation_level": None}
        engine = sa.create_engine(parsed, connect_args=options, hide_parameters=True)
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin)
        return engine
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidInput(f"the ledger's address begins with {parsed.drivername}, it must be postgresql or sqlite")
    try:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            # No prepared statements: a pooler between, such as pgbouncer, may not know them.
            connect_args={"connect_timeout": _CONNECT_S, "prepare_threshold": None, "application_name": "ret2"}
            | {"options": f"-c statement_timeout={_STATEMENT_MS}", "tcp_user_timeout": _STATEMENT_MS}
            # A machine that vanished while an answer is waited for: the system's own patience is two hours.
            | {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4},
            pool_size=_THREADS["postgresql"],
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ImportError as error:
        raise InvalidInput("PostgreSQL needs the package psycopg: install ret2[postgres]") from error


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    _to_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _to_wal(connection: Any) -> None:
    """SQLite's own waiting does not cover a new file that several connections turn to WAL at once: one is told that it is locked."""
    for _ in range(_TRIES - 1):
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL")
            return
        time.sleep(0.05)
    connection.execute("PRAGMA journal_mode=WAL")


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads before it writes would else fail, not wait, when another one wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")
