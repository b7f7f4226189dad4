"""The place of a cell among those of its log. A log that exists is one cell."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ID_BYTES = 16


def upgrade() -> None:
    table = op.create_table(
        "cells",
        sa.Column("number", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("count", sa.SmallInteger, nullable=False),
        sa.Column("log_id", sa.Text(collation="C"), nullable=False),
    )
    op.bulk_insert(table, [{"number": 0, "count": 1, "log_id": secrets.token_hex(_ID_BYTES)}])


def downgrade() -> None:
    op.drop_table("cells")
