"""The schema's history, applied by `outbound migrate` and by nothing else.

A migration only adds: the version before it goes on working on the new schema. So an upgrade needs
no stop (migrate, then restart process by process), and a step back needs no migration.
"""

from __future__ import annotations

from functools import cache

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "outbound:migrations")
    return config


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema. Several processes at once do no harm."""
    with engine.connect() as connection:
        if is_newer(connection):
            return  # a step back: Alembic would fail at a revision that it does not know
    config = _config()
    config.attributes["engine"] = engine
    command.upgrade(config, "head")


def is_current(connection: Connection) -> bool:
    """Tell whether this code can work with the database's schema: its own, or a newer one."""
    head = _known()[0]
    return _revision(connection) == head or is_newer(connection)


def is_newer(connection: Connection) -> bool:
    """Tell whether a later version migrated the database: its revision is none that we know.

    If that counted as wrong, `outbound migrate` would take every process of the version that is
    still serving out of the load balancer at once.
    """
    return _revision(connection) not in {None, *_known()}


@cache
def _known() -> tuple[str, ...]:
    """List this code's revisions, newest first."""
    history = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple(script.revision for script in history)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
