"""Live attempts in the order of their fences, and those apart that were unknown.

To make an index reads the whole table, and keeps who writes to it waiting for so long.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _live_index(*columns: str) -> None:
    op.drop_index("attempts_live_idx", table_name="attempts")
    op.create_index(
        "attempts_live_idx",
        "attempts",
        ["account_id", "run_id", *columns],
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def upgrade() -> None:
    """Apply."""
    _live_index("fence")
    op.create_index(
        "attempts_unknown_idx",
        "attempts",
        ["account_id", "run_id"],
        postgresql_where=sa.text("ended_at IS NULL AND unknown_at IS NOT NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("attempts_unknown_idx", table_name="attempts")
    _live_index()
