"""Events of an account as a whole, and a list of what its operators did."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.alter_column("events", "run_id", existing_type=sa.Uuid(), nullable=True)
    op.create_index(
        "events_actions_idx",
        "events",
        ["account_id", "id"],
        unique=False,
        postgresql_where=sa.text("actor <> 'on_unknown'"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index(
        "events_actions_idx",
        table_name="events",
        postgresql_where=sa.text("actor <> 'on_unknown'"),
    )
    op.execute("DELETE FROM events WHERE run_id IS NULL")
    op.alter_column("events", "run_id", existing_type=sa.Uuid(), nullable=False)
