"""The trace context of a transaction."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("transactions", sa.Column("trace", sa.Text))


def downgrade() -> None:
    op.drop_column("transactions", "trace")
