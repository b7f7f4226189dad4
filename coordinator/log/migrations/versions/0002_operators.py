"""Operators: the audit chain, paused participants, drains, and the reports of coordinators."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("transactions", sa.Column("heuristic", sa.Boolean, nullable=False, server_default="false"))
    op.add_column("transactions", sa.Column("adopted_at", _TIME))
    op.add_column("transactions", sa.Column("adopted_from", sa.Text(collation="C")))
    op.add_column("coordinators", sa.Column("drain_requested_at", _TIME))
    op.add_column("coordinators", sa.Column("report", sa.LargeBinary))
    op.add_column("coordinators", sa.Column("reported_at", _TIME))
    op.create_table(
        "participants",
        sa.Column("name", sa.Text(collation="C"), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("breaker_resets", sa.BigInteger, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text(collation="C"), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("previous_hash", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_index("audit_target", "audit", ["target", "sequence"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.execute("INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'))")


def downgrade() -> None:
    for table in ("audit_head", "audit", "participants"):
        op.drop_table(table)
    for column in ("reported_at", "report", "drain_requested_at"):
        op.drop_column("coordinators", column)
    for column in ("adopted_from", "adopted_at", "heuristic"):
        op.drop_column("transactions", column)
