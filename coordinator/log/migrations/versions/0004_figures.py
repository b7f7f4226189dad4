"""Indexes for the oldest waiting transaction and the stuck ones, independent of how many wait."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "transactions_parked_created",
        "transactions",
        ["created_at"],
        postgresql_where=sa.text("(next_attempt_at IS NULL) IS false"),
    )
    op.create_index(
        "transactions_stuck",
        "transactions",
        ["created_at"],
        postgresql_where=sa.text("stuck AND ended_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("transactions_stuck", "transactions")
    op.drop_index("transactions_parked_created", "transactions")
