"""Up to where the outcomes of transactions were published, and which of them had not ended then."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outcome_positions",
        sa.Column("target", sa.Text(collation="C"), primary_key=True),
        sa.Column("moment", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gid", sa.Text(collation="C"), nullable=False),
        sa.Column("reader", sa.Text(collation="C"), nullable=False),
    )
    op.create_table(
        "outcomes_awaited",
        sa.Column("target", sa.Text(collation="C"), primary_key=True),
        sa.Column("gid", sa.Text(collation="C"), primary_key=True),
        sa.Column("stuck", sa.Boolean, nullable=False, server_default="false"),
    )


def downgrade() -> None:
    op.drop_table("outcomes_awaited")
    op.drop_table("outcome_positions")
