"""The entry point of Alembic, which migrates over the connection that `indexer.ledger.sql.migrations` gives it."""

from alembic import context

from indexer.ledger.sql.migrations import VERSION_TABLE
from indexer.ledger.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite cannot change a column: Alembic copies the table instead.
    render_as_batch=True,
    # Ours is: see `_begin` of indexer.ledger.sql.database.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
