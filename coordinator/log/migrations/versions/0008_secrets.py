"""What only the coordinators of one log know: the key of confirmation tokens."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KEY_BYTES = 32


def upgrade() -> None:
    table = op.create_table(
        "coordinator_secrets",
        sa.Column("name", sa.Text(collation="C"), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.bulk_insert(table, [{"name": "confirmation", "value": secrets.token_bytes(_KEY_BYTES)}])


def downgrade() -> None:
    op.drop_table("coordinator_secrets")
