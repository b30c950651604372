"""How Alembic runs our migrations: one migrator at a time, each migration a transaction."""

from alembic import context
from sqlalchemy import text

from outbound.models import metadata

engine = context.config.attributes["engine"]
with engine.begin() as lock, engine.connect() as connection:
    # Without this lock, of four processes that start together three fail.
    lock.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('outbound.migrate', 0))"))
    connection.detach()  # the pool must not get it back: what follows is for the whole session
    # Whoever needs the table that we wait for waits behind us. So we give up soon, and try again
    # (cli/processes.py): before PostgreSQL looks for deadlocks, which it does after a second.
    connection.execute(text("SET lock_timeout = '800ms'"))
    connection.commit()
    # Two tables of a busy system are never locked in one transaction: somebody has the second one
    # and waits for the first. So a migration alters one table, and commits.
    context.configure(
        connection=connection, target_metadata=metadata, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()
