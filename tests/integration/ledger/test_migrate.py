"""`ret2 migrate` on both databases: what it was, what it is, and that it is done once."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from indexer.ledger.migrations import NEWEST
from service.cli.main import app
from service.data_lock import only_server_of

GOLDEN = Path(__file__).parents[2] / "golden"
Migrate = Callable[..., Any]


@pytest.fixture
def migrate(monkeypatch: pytest.MonkeyPatch) -> Migrate:
    def run(*arguments: str, **environment: str) -> Any:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, ["migrate", *arguments])

    return run


def test_sqlite(migrate: Migrate, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection:
        connection.executescript((GOLDEN / "ledger-v1.sqlite.sql").read_text())
    file, options = tmp_path / "ledger.sqlite", ("--data-dir", str(tmp_path))
    assert migrate(*options).output == f"ledger {file}: schema 1 -> {NEWEST}\n"
    assert migrate(*options).output == f"ledger {file}: is at schema {NEWEST}\n"


def test_sqlite_of_a_running_server_is_left_alone(migrate: Migrate, tmp_path: Path) -> None:
    with only_server_of(tmp_path):
        result = migrate("--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "in use" in result.output
    assert not (tmp_path / "ledger.sqlite").exists()


def test_postgresql(migrate: Migrate, postgres_url: str) -> None:
    place = postgres_url.partition("@")[2]
    assert migrate(RET2_DATABASE_URL=postgres_url).output == f"ledger {place}: schema none -> {NEWEST}\n"
    assert migrate().output == f"ledger {place}: is at schema {NEWEST}\n"


def test_postgresql_of_an_older_version(migrate: Migrate, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute((GOLDEN / "ledger-v1.postgresql.sql").read_text())  # type: ignore[arg-type]
    assert f"schema 1 -> {NEWEST}\n" in migrate(RET2_DATABASE_URL=postgres_url).output


def test_back_and_forth(migrate: Migrate, tmp_path: Path) -> None:
    file, options = tmp_path / "ledger.sqlite", ("--data-dir", str(tmp_path))
    migrate(*options)
    back = migrate(*options, "--to=5").output.splitlines()
    assert back[0] == f"ledger {file}: schema {NEWEST} -> 5"
    assert back[1].startswith("lost: finished repairs are no longer listed")
    assert back[2] == "lost: finished imports, with their failures, are no longer listed"
    assert migrate(*options, "--to", "5").output == f"ledger {file}: is at schema 5\n"
    assert migrate(*options).output == f"ledger {file}: schema 5 -> {NEWEST}\n"
    assert migrate(*options, "--to=99").exit_code == 1


def test_postgresql_that_is_away(migrate: Migrate) -> None:
    result = migrate(RET2_DATABASE_URL="postgresql://u:secret@127.0.0.1:1/db")
    assert result.exit_code == 1
    assert result.output == "ret2: the ledger's database does not answer: OperationalError\n"
