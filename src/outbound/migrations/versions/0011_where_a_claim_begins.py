"""Where a run's last claim found the first queued call, and the first live attempt.

The next one begins there: see claims._HEAD and claims._LIMITS.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("runs", sa.Column("queue_head_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("queue_head_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "runs", sa.Column("live_from", sa.BigInteger(), server_default="0", nullable=False)
    )


def downgrade() -> None:
    """Take back."""
    for name in ("live_from", "queue_head_id", "queue_head_at"):
        op.drop_column("runs", name)
