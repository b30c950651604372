"""Open attempts in the order of their fences, and a table of those that were unknown.

A trigger keeps the table, so that it is right whichever version writes: no attempt is ever
deleted, nor its `unknown_at` taken back. Not an index: one that names `unknown_at` would have each
attempt that becomes unknown written to all indexes of `attempts`.

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

_FUNCTION = """
    CREATE FUNCTION note_unknown_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.ended_at IS NULL THEN
            INSERT INTO unknown_attempts (account_id, attempt_id, run_id, occupies_until, is_placed)
            VALUES (NEW.account_id, NEW.id, NEW.run_id, NEW.occupies_until, NEW.state = 'placed')
            ON CONFLICT (account_id, attempt_id) DO UPDATE
               SET occupies_until = EXCLUDED.occupies_until, is_placed = EXCLUDED.is_placed;
        ELSE
            DELETE FROM unknown_attempts
             WHERE account_id = NEW.account_id AND attempt_id = NEW.id;
        END IF;
        RETURN NULL;
    END $$
"""
_TRIGGER = """
    CREATE TRIGGER note_unknown AFTER UPDATE ON attempts FOR EACH ROW
      WHEN (NEW.unknown_at IS NOT NULL
            AND (OLD.unknown_at, OLD.ended_at, OLD.state, OLD.occupies_until)
                IS DISTINCT FROM (NEW.unknown_at, NEW.ended_at, NEW.state, NEW.occupies_until))
      EXECUTE FUNCTION note_unknown_attempt()
"""
_FILL = """
    INSERT INTO unknown_attempts (account_id, attempt_id, run_id, occupies_until, is_placed)
    SELECT account_id, id, run_id, occupies_until, state = 'placed'
      FROM attempts WHERE ended_at IS NULL AND unknown_at IS NOT NULL
"""


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "unknown_attempts",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("occupies_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_placed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "attempt_id", name=op.f("unknown_attempts_pkey")),
    )
    # The trigger first: its lock is the stronger one, and nobody writes once it is had.
    for statement in (_FUNCTION, _TRIGGER, _FILL):
        op.execute(statement)
    op.create_index(
        "attempts_open_idx",
        "attempts",
        ["account_id", "run_id", "fence"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("attempts_open_idx", table_name="attempts")
    op.execute("DROP TRIGGER note_unknown ON attempts")
    op.execute("DROP FUNCTION note_unknown_attempt")
    op.drop_table("unknown_attempts")
