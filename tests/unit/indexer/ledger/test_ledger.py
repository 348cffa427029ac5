"""What is SQLite's alone, and what goes wrong with a database. The contract of both databases is in tests/integration/ledger."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from ledger_steps import collection

from indexer.ledger.ledger import Ledger
from model.errors import DependencyUnavailable, InvalidInput, NotFound


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    opened.collections.create.blocking(collection())
    yield opened
    opened.close()


def test_a_commit_is_on_disk(ledger: Ledger) -> None:
    with ledger.database._engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 is FULL


def test_a_database_that_does_not_answer_is_a_dependency_that_is_away(ledger: Ledger) -> None:
    with ledger.database._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone")
    with pytest.raises(DependencyUnavailable):
        ledger.jobs.newest.blocking()


async def test_call_runs_off_the_event_loop(ledger: Ledger) -> None:
    assert await ledger.jobs.newest(limit=5) == []
    with pytest.raises(NotFound):
        await ledger.jobs.find("nothing")


@pytest.mark.parametrize("url", ["nonsense", "postgresql//u:secret@host/db", "mysql://u:secret@host/db"])
def test_an_address_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Ledger.open(url)
    assert "secret" not in refused.value.detail


def test_a_postgresql_that_is_away_is_said_without_its_password(need: Callable[[bool, str], None]) -> None:
    need(find_spec("psycopg") is not None, "the package psycopg")
    with pytest.raises(DependencyUnavailable) as away:
        Ledger.open("postgresql://u:secret@127.0.0.1:1/db")
    assert "secret" not in away.value.detail
