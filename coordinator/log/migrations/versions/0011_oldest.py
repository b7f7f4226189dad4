"""The oldest migration that a coordinator must know to run on the log, beside that of its version."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A later migration that coordinators of the former release cannot run on raises it.
    op.add_column(
        "alembic_version", sa.Column("oldest", sa.String(32), nullable=False, server_default="0011")
    )


def downgrade() -> None:
    op.drop_column("alembic_version", "oldest")
