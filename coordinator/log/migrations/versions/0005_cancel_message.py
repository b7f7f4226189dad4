"""The participant's message beside its reason for a cancel."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("transactions", sa.Column("cancel_message", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("transactions", "cancel_message")
