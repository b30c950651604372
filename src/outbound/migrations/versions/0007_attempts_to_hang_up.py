"""Attempts whose call somebody cancelled."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    no = sa.text("false")
    op.add_column("attempts", sa.Column("hang_up", sa.Boolean(), server_default=no, nullable=False))


def downgrade() -> None:
    """Take back."""
    op.drop_column("attempts", "hang_up")
