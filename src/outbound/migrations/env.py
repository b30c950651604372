"""How Alembic runs our migrations: one transaction, one migrator at a time."""

from alembic import context
from sqlalchemy import text

from outbound.models import metadata

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        # Without this lock, of four processes that start together three fail.
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended('outbound.migrate', 0))")
        )
        context.run_migrations()
