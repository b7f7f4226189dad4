"""Audit records name the role that the operator had."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit", sa.Column("role", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("audit", "role")
