"""How far the payloads of ended transactions were erased, and an index for those that ended late."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "transactions_ended_late",
        "transactions",
        ["ended_at"],
        postgresql_where=sa.text("ended_at - created_at > INTERVAL '10 minutes'"),
    )
    op.create_table(
        "erasures",
        sa.Column("name", sa.Text(collation="C"), primary_key=True),
        sa.Column("moment", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gid", sa.Text(collation="C"), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("erasures")
    op.drop_index("transactions_ended_late", "transactions")
