"""`ret2 migrate` on both databases: what it was, what it is, and that it is done once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from indexer.ledger.sql.migrations import newest
from service.cli.main import app
from service.data_lock import only_server_of

Migrate = Callable[..., Any]


@pytest.fixture
def migrate(monkeypatch: pytest.MonkeyPatch) -> Migrate:
    def run(*arguments: str, **environment: str) -> Any:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, ["migrate", *arguments])

    return run


def test_sqlite(migrate: Migrate, tmp_path: Path) -> None:
    file, options = tmp_path / "ledger.sqlite", ("--data-dir", str(tmp_path))
    assert migrate(*options).output == f"ledger {file}: schema none -> {newest()}\n"
    assert migrate(*options).output == f"ledger {file}: is at schema {newest()}\n"


def test_sqlite_of_a_running_server_is_left_alone(migrate: Migrate, tmp_path: Path) -> None:
    with only_server_of(tmp_path):
        result = migrate("--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "in use" in result.output
    assert not (tmp_path / "ledger.sqlite").exists()


def test_postgresql(migrate: Migrate, postgres_url: str) -> None:
    place = postgres_url.partition("@")[2]
    assert migrate(RET2_DATABASE_URL=postgres_url).output == f"ledger {place}: schema none -> {newest()}\n"
    assert migrate().output == f"ledger {place}: is at schema {newest()}\n"


def test_postgresql_that_is_away(migrate: Migrate) -> None:
    result = migrate(RET2_DATABASE_URL="postgresql://u:secret@127.0.0.1:1/db")
    assert result.exit_code == 1
    assert result.output == "ret2: the ledger's database 127.0.0.1:1/db does not answer: OperationalError\n"


def test_a_file_that_is_no_database_is_named(migrate: Migrate, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("not a database, " * 100)
    result = migrate("--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert result.output == (
        f"ret2: ledger {tmp_path / 'ledger.sqlite'}: it is not an SQLite database. Give another data folder, or restore a backup\n"
    )
