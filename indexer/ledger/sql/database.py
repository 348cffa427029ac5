"""The ledger's database: its connections, transactions, threads and clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial, wraps
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from indexer.ledger.sql.engines import THREADS, Damaged, Deadlock, display_name, make_engine, translate
from indexer.ledger.sql.migrations import migrate
from indexer.ledger.sql.schema import counters
from indexer.observability.watch import NOBODY, Watch
from model.errors import DependencyUnavailable

P = ParamSpec("P")
T = TypeVar("T")
Self_ = TypeVar("Self_")

_TRIES = 5


class Database:
    """Safe to use from several threads; its creator closes it. Its methods block; `run` runs a blocking method off the
    event loop, in threads of its own that no slow name lookup can occupy.

    The time is the database's own where it is PostgreSQL, so that machines need not agree on it; `clock` is for tests.
    `schema_before` is the version of the schema that was found, 0 where there was none.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None, watch: Watch = NOBODY) -> None:
        self._clock = clock
        self._watch = watch
        self.schema_before = _migrate(url)
        self._engine = make_engine(url)
        self._writes = self._engine.execution_options(immediate=True)
        self._threads = ThreadPoolExecutor(THREADS[self._engine.dialect.name], thread_name_prefix="ledger")
        # The error of the last write transaction that failed for want of the database, and of damage that was seen.
        self._write_error: DependencyUnavailable | None = None
        self._damage: Damaged | None = None

    @property
    def name(self) -> str:
        """Where it is, for messages: without user, password and options."""
        return display_name(self._engine)

    def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    async def run(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking method in a thread of the ledger, with the context of the caller: its trace and the ids of its
        log lines."""
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
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Yield a connection that reads everything as it is at one moment."""
        # In WAL mode a transaction of SQLite is that already.
        sqlite = self._engine.dialect.name == "sqlite"
        engine = self._engine if sqlite else self._engine.execution_options(isolation_level="REPEATABLE READ")
        with self._translated(), engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        try:
            with self._translated(), self._writes.begin() as connection:
                yield connection
        except Deadlock:
            raise
        except DependencyUnavailable as error:
            self._write_error = error
            raise
        self._write_error = None

    def check(self) -> None:
        """Raise `DependencyUnavailable` where the ledger does not work.

        A disk that is full or read-only lets reads succeed, and damage concerns only what lies there. So after a write
        that failed a write must succeed, and damage that was seen counts until the process is started again.
        """
        if self._damage is not None:
            raise self._damage
        if self._write_error is None:
            with self.read() as connection:
                connection.execute(sa.select(counters))
        else:
            with self.write() as connection:
                connection.execute(sa.update(counters).values(value=counters.c.value))

    def now(self, connection: sa.Connection) -> float:
        """Return the time in Unix seconds."""
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            return time.time()
        return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            translated = translate(error, self._engine)
            if translated is error:
                raise
            if isinstance(translated, Damaged):
                self._damage = translated
            raise translated from error


def again_on_deadlock(
    method: Callable[Concatenate[Self_, P], T],
) -> Callable[Concatenate[Self_, P], T]:
    """Repeat a method that is one transaction and does nothing else when it was given up for another one."""

    @wraps(method)
    def repeated(self: Self_, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_TRIES - 1):
            try:
                return method(self, *args, **kwargs)
            except Deadlock:
                continue
        return method(self, *args, **kwargs)

    return repeated


def _migrate(url: str) -> int:
    engine = make_engine(url, migrating=True)
    try:
        return migrate(engine, display_name(engine))
    except SQLAlchemyError as error:
        raise translate(error, engine) from error
    finally:
        engine.dispose()
