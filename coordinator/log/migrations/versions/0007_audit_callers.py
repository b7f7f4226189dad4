"""Audit records name the caller; statements about the end of the chain; all of it is append-only."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_CALLER = ("on_behalf_of", "method", "peer", "credential")


def upgrade() -> None:
    for column in _CALLER:
        op.add_column("audit", sa.Column(column, sa.Text, nullable=False, server_default=""))
    op.create_table(
        "audit_heads",
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
    op.create_index("audit_heads_newest", "audit_heads", ["key_id", "sequence", "at_us"])
    op.execute(
        "INSERT INTO audit_heads (sequence, hash, at_us, key_id, signature)"
        " SELECT sequence, hash, 0, '', decode('', 'hex') FROM audit_head"
    )
    op.drop_table("audit_head")


def downgrade() -> None:
    op.create_table(
        "audit_head",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.execute("INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'))")
    op.execute(
        "UPDATE audit_head SET sequence = ended.sequence, hash = ended.hash"
        " FROM (SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1) AS ended"
    )
    op.drop_table("audit_heads")
    for column in reversed(_CALLER):
        op.drop_column("audit", column)
