"""A ledger whose file or disk does not work says where it is and why, and is not ready."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_steps import accept, collection

from indexer.ledger.ledger import Ledger
from model.errors import DependencyUnavailable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(file: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{file}")
    opened.collections.create.blocking(collection())
    yield opened
    opened.close()


def test_a_file_that_is_no_database(file: Path) -> None:
    file.write_text("not a database, " * 100)
    with pytest.raises(DependencyUnavailable, match=f"ledger {file}: it is not an SQLite database"):
        Ledger.open(f"sqlite:///{file}")


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DependencyUnavailable, match=r"gone/ledger\.sqlite: it cannot be opened"):
        Ledger.open(f"sqlite:///{tmp_path / 'gone' / 'ledger.sqlite'}")


async def test_a_full_disk_is_not_ready_until_a_write_succeeds(ledger: Ledger, file: Path) -> None:
    with ledger.database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DependencyUnavailable, match=f"ledger {file}: the disk is full: \\d+ bytes free"):
        accept(ledger, *("abcdefgh" * 50 for _ in range(50)))
    with ledger.database.read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    await ledger.housekeeping.check()
    assert ledger.database._write_error is None


async def test_writes_that_fail_are_not_ready_though_reads_succeed(ledger: Ledger, file: Path) -> None:
    await ledger.housekeeping.check()
    with ledger.database.read() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(DependencyUnavailable, match=f"ledger {file}: it cannot be written"):
        accept(ledger, "a")
    with pytest.raises(DependencyUnavailable, match="it cannot be written"):
        await ledger.housekeeping.check()
    with ledger.database.read() as connection:
        connection.exec_driver_sql("PRAGMA query_only = OFF")
    await ledger.housekeeping.check()
