"""Without the index that `attempts_open_idx` replaces."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.drop_index("attempts_live_idx", table_name="attempts")


def downgrade() -> None:
    """Take back."""
    op.create_index(
        "attempts_live_idx",
        "attempts",
        ["account_id", "run_id"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )
