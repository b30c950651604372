"""Calls that somebody cancelled, and why a call ended undialled."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    no = sa.text("false")
    op.add_column(
        "calls", sa.Column("cancel_requested", sa.Boolean(), server_default=no, nullable=False)
    )
    op.add_column("calls", sa.Column("last_error", sa.Text(), nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("calls", "last_error")
    op.drop_column("calls", "cancel_requested")
