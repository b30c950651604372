"""Numbers that are never called."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "suppressions",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("account_id", "phone", name=op.f("suppressions_pkey")),
    )
    op.create_index(
        op.f("suppressions_account_id_id_idx"), "suppressions", ["account_id", "id"], unique=False
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index(op.f("suppressions_account_id_id_idx"), table_name="suppressions")
    op.drop_table("suppressions")
