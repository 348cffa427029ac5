"""The schema of the ledger on both databases: made once by however many processes, equal to the metadata, and forward only."""

import multiprocessing
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from ledger_steps import accept, collection, settle_all

from indexer.ledger.ledger import Ledger
from indexer.ledger.sql import migrations
from indexer.ledger.sql.engines import make_engine
from indexer.ledger.sql.schema import metadata
from model.errors import Conflict

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "{number}"
down_revision = "{before}"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="7"))
        batch.alter_column("waiting_on", new_column_name="waits_for")
"""


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The steps of a program that knows one more. It copies a table in SQLite."""
    folder = tmp_path / "100% newer"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = migrations.newest()
    (folder / "versions" / f"schema_{before + 1}.py").write_text(NEXT.format(number=before + 1, before=before))
    return folder


def open_and_close(url: str) -> int:
    ledger = Ledger.open(url)
    ledger.close()
    return ledger.database.schema_before


def test_a_new_ledger_is_what_the_metadata_says(url: str) -> None:
    assert [open_and_close(url), open_and_close(url)] == [0, migrations.newest()]
    engine = make_engine(url)
    with engine.connect() as connection:
        options = {"version_table": migrations.VERSION_TABLE, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        assert indexes(connection) == expected_indexes(connection)
    engine.dispose()


def indexes(connection: sa.Connection) -> dict[str, str]:
    """The definitions of all indexes, conditions included, which Alembic does not compare."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    else:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
    return {
        name: " ".join(sql.split()) for name, sql in connection.exec_driver_sql(query) if not name.startswith("ret2_")
    }


def expected_indexes(connection: sa.Connection) -> dict[str, str]:
    """The same of tables that are made from the metadata, in a schema of their own that is never committed."""
    if connection.dialect.name == "sqlite":
        engine = sa.create_engine("sqlite://")
        with engine.begin() as memory:
            metadata.create_all(memory)
            return indexes(memory)
    connection.exec_driver_sql("CREATE SCHEMA expected")
    connection.exec_driver_sql("SET search_path TO expected")
    metadata.create_all(connection)
    return {name: sql.replace("expected.", "public.") for name, sql in indexes(connection).items()}


def test_three_processes_that_start_at_once_make_one_ledger(url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as processes:
        found = processes.map(open_and_close, [url] * 3, chunksize=1)
    assert sorted(found) == [0, migrations.newest(), migrations.newest()]


def test_a_later_version_migrates_what_there_is_and_is_refused_by_an_earlier_one(url: str, newer: Path) -> None:
    ledger = Ledger.open(url)
    ledger.collections.create.blocking(collection())
    job = accept(ledger, "ab", "c")
    settle_all(ledger)
    waiting = accept(ledger, "d")
    ledger.close()
    engine = make_engine(url, migrating=True)
    assert migrations.migrate(engine, "here", newer) == migrations.newest()
    assert migrations.migrate(engine, "here", newer) == migrations.newest() + 1
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, priority FROM jobs ORDER BY seq").all()
        assert [tuple(row) for row in rows] == [(job.id, 7), (waiting.id, 7)]
        # SQLite would delete the batches of a job with its row when the table is copied.
        assert connection.exec_driver_sql("SELECT count(*) FROM batches").scalar_one() == 3
    engine.dispose()
    with pytest.raises(Conflict, match=f"has schema {migrations.newest() + 1}, this version of ret2 reads up to"):
        Ledger.open(url)


def test_a_step_that_fails_changes_nothing(url: str, newer: Path) -> None:
    open_and_close(url)
    (step,) = (newer / "versions").glob(f"schema_{migrations.newest() + 1}.py")
    step.write_text(step.read_text() + "    raise RuntimeError('half-way')\n")
    engine = make_engine(url, migrating=True)
    with pytest.raises(RuntimeError, match="half-way"):
        migrations.migrate(engine, "here", newer)
    engine.dispose()
    assert open_and_close(url) == migrations.newest()


def test_tables_of_another_program_are_left_alone(url: str) -> None:
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE jobs (mine INTEGER)")
    with pytest.raises(Conflict, match="has tables that are not a ledger's: jobs"):
        Ledger.open(url)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["jobs"]
    engine.dispose()


def test_the_next_step_is_written_from_the_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    file = migrations.write_revision("Nothing new.", folder)
    assert file.name == f"schema_{migrations.newest() + 1}.py"
    assert "    pass\n" in file.read_text()
