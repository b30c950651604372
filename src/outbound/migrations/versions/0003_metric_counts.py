"""What all processes counted, for /metrics."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "metric_counts",
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("series", name=op.f("metric_counts_pkey")),
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("metric_counts")
