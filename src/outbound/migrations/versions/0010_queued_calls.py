"""Whether a call is queued, as a column of its own; vacuum settings for what changes most.

PostgreSQL asks whether a column changed that an index names, also in its WHERE: with `state`
there, each move of a call wrote to all of the table's indexes. Adding the column writes the
table anew and keeps others out for so long.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Vacuumed when a hundredth has changed, not a fifth; and small ones after so many changes, since
# each claim changes the same rows.
_LARGE = "autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02"
_SMALL = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000"
_SETTINGS = {
    "calls": f"fillfactor = 60, {_LARGE}",
    "attempts": f"fillfactor = 50, {_LARGE}",
    "runs": f"fillfactor = 50, {_SMALL}",
    "account_pace": f"fillfactor = 50, {_SMALL}",
    "run_counters": f"fillfactor = 50, {_SMALL}",
}
_BEFORE = {"calls": 80, "attempts": 60, "run_counters": 50}


def _index(where: str) -> None:
    op.drop_index("calls_due_idx", table_name="calls")
    op.drop_index("calls_waiting_idx", table_name="calls")
    op.create_index(
        "calls_due_idx",
        "calls",
        ["run_id", "next_attempt_at", "id"],
        postgresql_where=sa.text(where),
    )
    op.create_index(
        "calls_waiting_idx",
        "calls",
        ["account_id", "phone"],
        postgresql_where=sa.text(f"{where} AND waiting_for = 'phone'"),
    )


def upgrade() -> None:
    """Apply."""
    queued = sa.Computed("state = 'queued'", persisted=True)
    op.add_column("calls", sa.Column("is_queued", sa.Boolean(), queued, nullable=False))
    _index("is_queued")
    for table, settings in _SETTINGS.items():
        op.execute(f"ALTER TABLE {table} SET ({settings})")


def downgrade() -> None:
    """Take back."""
    for table, settings in _SETTINGS.items():
        names = ", ".join(one.split(" = ")[0].strip() for one in settings.split(","))
        op.execute(f"ALTER TABLE {table} RESET ({names})")
    for table, fillfactor in _BEFORE.items():
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {fillfactor})")
    _index("state = 'queued'")
    op.drop_column("calls", "is_queued")
