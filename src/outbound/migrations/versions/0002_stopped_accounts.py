"""Who stopped an account, and when; which of its calls are to be ended."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column(
        "account_pace", sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("account_pace", sa.Column("stopped_by", sa.Text(), nullable=True))
    op.add_column(
        "account_pace", sa.Column("hang_up_before", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("account_pace", "hang_up_before")
    op.drop_column("account_pace", "stopped_by")
    op.drop_column("account_pace", "stopped_at")
