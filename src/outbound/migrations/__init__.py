"""The schema's history, applied by `outbound migrate` and by nothing else."""

from __future__ import annotations

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
    config = _config()
    config.attributes["engine"] = engine
    command.upgrade(config, "head")


def is_current(connection: Connection) -> bool:
    """Tell whether the database has exactly the schema that this code knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head
