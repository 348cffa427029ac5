"""One contract, two databases: every test of this folder runs on a SQLite file and on a real PostgreSQL, each time a new one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ledger_steps import Clock, collection

from indexer.ledger.ledger import Ledger
from indexer.ledger.sql.schema import metadata


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def open_ledger(url: str, clock: Clock) -> Iterator[Callable[..., Ledger]]:
    """Once more, as another process would."""
    opened: list[Ledger] = []

    def another(**options: Any) -> Ledger:
        opened.append(Ledger.open(url, **{"clock": clock, **options}))
        return opened[-1]

    yield another
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    made = open_ledger()
    made.collections.create.blocking(collection())
    return made


@pytest.fixture
def empty(url: str, clock: Clock) -> Iterator[Callable[[], Ledger]]:
    """The same ledger for every example, empty again."""
    ledger = Ledger.open(url, clock=clock)

    def emptied() -> Ledger:
        with ledger.database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                if table.name != "counters":
                    connection.execute(table.delete())
        ledger.collections.create.blocking(collection())
        return ledger

    yield emptied
    ledger.close()
