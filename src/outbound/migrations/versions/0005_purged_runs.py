"""When a run's personal data was deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("runs", sa.Column("purge_started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("runs", "purged_at")
    op.drop_column("runs", "purge_started_at")
