"""The schema that the code means is the schema that the migrations make."""

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from outbound import migrations
from outbound.models import metadata


@pytest.fixture
def database_url(fresh_database_url):
    return fresh_database_url


def test_the_models_and_the_migrations_agree(engine):
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_migrated_database_is_current_and_an_empty_one_is_not(engine):
    with engine.begin() as connection:
        assert migrations.is_current(connection)
        connection.execute(text("DELETE FROM alembic_version"))
        assert not migrations.is_current(connection)


def test_four_processes_that_migrate_at_once_all_succeed(engine, database_url):
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    code = (
        "from outbound import db, config, migrations; "
        f"s = config.read(environ={{'DATABASE_URL': {database_url!r}}}); "
        "migrations.migrate(db.connect(s))"
    )
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [0, 0, 0, 0]
    with engine.connect() as connection:
        assert migrations.is_current(connection)
