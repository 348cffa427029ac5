"""The versions of the ledger's schema, and the way from an older one to the newest. Alembic runs the steps in
`versions/`.

To change the schema: change `indexer.ledger.sql.schema`, write the step with
`python -m indexer.ledger.sql.migrations MESSAGE`, and read what it wrote. A step that was released is never changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from indexer.ledger.sql.schema import metadata
from model.errors import Conflict

FOLDER = Path(__file__).parent
# A name of our own: another program's Alembic may have an `alembic_version` in the same database.
VERSION_TABLE = "ret2_ledger_schema"
# "ret2", as a number of PostgreSQL's advisory locks.
_LOCK = 0x72657432


def newest(folder: Path = FOLDER) -> int:
    """Return the version of the schema that this program writes."""
    return int(_scripts(folder).get_current_head() or 0)


def migrate(engine: sa.Engine, name: str, folder: Path = FOLDER) -> int:
    """Bring the schema of a database to the newest version. Return the version before, 0 where there was no ledger.

    `engine` has no statement time-out, takes SQLite's write lock as a transaction begins, and does not enforce foreign
    keys there, because Alembic changes a table of SQLite by copying it and dropping the old one. All is one transaction
    under a lock, so several processes may start at once. Raises `Conflict` for a ledger of a newer program and for
    tables that are not a ledger's.
    """
    with _exclusive(engine) as connection:
        before = _version(connection)
        if before > newest(folder):
            raise Conflict(
                f"ledger {name} has schema {before}, this version of ret2 reads up to {newest(folder)}. Start the "
                "newer version of "
                "ret2 that wrote it, or restore the backup from before the upgrade"
            )
        if before == 0 and (strange := sorted(metadata.tables.keys() & set(sa.inspect(connection).get_table_names()))):
            raise Conflict(
                f"database {name} has tables that are not a ledger's: {', '.join(strange[:3])}. Give ret2 a database "
                "of its own"
            )
        if before < newest(folder):
            command.upgrade(_config(folder, connection), "head")
            _check_foreign_keys(connection, name)
        return before


def write_revision(message: str, folder: Path = FOLDER) -> Path:
    """Write the step from the newest version to the tables of `indexer.ledger.sql.schema`, and return its file."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        config = _config(folder, connection)
        command.upgrade(config, "head")
        script = command.revision(config, message, autogenerate=True, rev_id=str(newest(folder) + 1))
    assert script is not None
    assert not isinstance(script, list)
    return Path(script.path)


@contextmanager
def _exclusive(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _version(connection: sa.Connection) -> int:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return int(context.get_current_revision() or 0)


def _check_foreign_keys(connection: sa.Connection, name: str) -> None:
    """Check what SQLite did not enforce while it was migrated."""
    if connection.dialect.name != "sqlite":
        return
    if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise Conflict(
            f"ledger {name} cannot be migrated: a row of table {broken[0]} refers to a missing row of {broken[2]}"
        )


def _config(folder: Path, connection: sa.Connection) -> Config:
    config = Config(attributes={"connection": connection})
    # Config interpolates values, so a percent sign of the path is doubled.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("file_template", "schema_%%(rev)s")
    return config


def _scripts(folder: Path) -> ScriptDirectory:
    return ScriptDirectory(str(folder))
