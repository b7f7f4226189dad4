"""The transactions and the coordinators that drive them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "transactions",
        sa.Column("gid", sa.Text(collation="C"), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("owner", sa.Text(collation="C"), nullable=False),
        sa.Column("claim", sa.Text),
        sa.Column("interactive", sa.Boolean, nullable=False),
        sa.Column("initiator", sa.Text, nullable=False),
        sa.Column("labels", postgresql.JSONB, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("branches", sa.LargeBinary, nullable=False),
        sa.Column("payloads", sa.LargeBinary, nullable=False),
        sa.Column("progress", sa.LargeBinary),
        sa.Column("participants", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("cancel_reason", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("cancel_branch_id", sa.Text, nullable=False, server_default=""),
        sa.Column("cancel_detail", sa.Text, nullable=False, server_default=""),
        sa.Column("stuck", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("waiting_on", sa.Text, nullable=False, server_default=""),
        sa.Column("next_attempt_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("decided_at", _TIME),
        sa.Column("ended_at", _TIME),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(
        "transactions_owned",
        "transactions",
        ["owner"],
        postgresql_where=sa.text("next_attempt_at IS NULL AND ended_at IS NULL"),
    )
    op.create_index(
        "transactions_parked",
        "transactions",
        ["waiting_on", "next_attempt_at"],
        postgresql_where=sa.text("next_attempt_at IS NOT NULL"),
    )
    op.create_index("transactions_created", "transactions", ["created_at"])
    op.create_table(
        "coordinators",
        sa.Column("id", sa.Text(collation="C"), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("lease_until", _TIME, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("coordinators")
    op.drop_table("transactions")
