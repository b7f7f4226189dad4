"""How often a cell was moved, and in a copy that was left behind, when and where to."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cells", sa.Column("generation", sa.BigInteger, nullable=False, server_default="1"))
    op.add_column("cells", sa.Column("moved_at", sa.DateTime(timezone=True)))
    op.add_column("cells", sa.Column("moved_to", sa.Text))


def downgrade() -> None:
    op.drop_column("cells", "moved_to")
    op.drop_column("cells", "moved_at")
    op.drop_column("cells", "generation")
