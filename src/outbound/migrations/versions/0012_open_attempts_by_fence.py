"""Open attempts in the order of their fences, and those apart that were unknown.

To make an index reads the whole table, and keeps who writes to it waiting for so long; readers go
on. What it replaces goes in the next one: that needs a lock which nobody else may have, for an
instant.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "attempts_open_idx",
        "attempts",
        ["account_id", "run_id", "fence"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "attempts_unknown_idx",
        "attempts",
        ["account_id"],
        postgresql_where=sa.text("ended_at IS NULL AND unknown_at IS NOT NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("attempts_unknown_idx", table_name="attempts")
    op.drop_index("attempts_open_idx", table_name="attempts")
