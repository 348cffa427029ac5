"""The documents of a job of whose text a part has no embedding."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("truncated", sa.Integer(), server_default="0", nullable=False))
