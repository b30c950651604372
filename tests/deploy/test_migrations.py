"""Migrations only add, so that the version before goes on working while the next one comes up."""

from uuid import uuid4

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from outbound import migrations


@pytest.fixture
def engine(fresh_database_url):
    url = make_url(fresh_database_url).set(drivername="postgresql+psycopg2")
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    yield engine
    engine.dispose()


COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable = 'YES' AS nullable,
           column_default IS NOT NULL OR is_identity = 'YES' OR is_generated = 'ALWAYS'
               AS fills_itself
      FROM information_schema.columns WHERE table_schema = 'public'
"""
CONSTRAINTS = """
    SELECT conrelid::regclass::text AS table_name, conname AS name, contype::text AS kind,
           pg_get_constraintdef(oid) AS says
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
"""
UNIQUE_INDEXES = """
    SELECT indrelid::regclass::text AS table_name, indexrelid::regclass::text AS name, 'u' AS kind,
           pg_get_indexdef(indexrelid) AS says
      FROM pg_index WHERE indisunique AND indrelid::regclass::text !~ '^pg_'
       AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = indexrelid)
       AND (SELECT relnamespace FROM pg_class WHERE oid = indrelid) = 'public'::regnamespace
"""


def schema_of(engine):
    with engine.connect() as connection:
        columns = {
            (row["table_name"], row["column_name"]): dict(row)
            for row in connection.execute(text(COLUMNS)).mappings()
        }
        rules = {
            (row["table_name"], row["name"]): dict(row)
            for sql in (CONSTRAINTS, UNIQUE_INDEXES)
            for row in connection.execute(text(sql)).mappings()
        }
    return columns, rules


def breaks(before, after):
    """What in the newer schema the code of the older one does not survive."""
    tables = {table for table, _ in before[0]}
    return [*_columns(before[0], after[0], tables), *_rules(before[1], after[1], tables)]


def _columns(old, new, tables):
    for key, column in old.items():
        if key not in new:
            yield f"{key} is gone or has another name, and is still read"
        elif new[key]["data_type"] != column["data_type"]:
            yield f"{key} is of another type"
        elif column["nullable"] and not new[key]["nullable"]:
            yield f"{key} must be filled, and is not"
        elif column["fills_itself"] and not new[key]["fills_itself"]:
            yield f"{key} has no default any more, and is left out"
    for key in new.keys() - old.keys():
        if key[0] in tables and not new[key]["nullable"] and not new[key]["fills_itself"]:
            yield f"{key} must be filled by code that does not know it"


def _rules(old, new, tables):
    for key, rule in new.items():
        if key[0] in tables and old.get(key) != rule:
            yield f"{key} is a new rule, which what is written now may break"
    for key in old.keys() - new.keys():
        if old[key]["kind"] in "pu":
            yield f"{key} is gone: ON CONFLICT needs it, and so does the promise"


LOCKED = f"""
    SELECT table_name, column_name || row_to_json(c)::text AS what FROM ({COLUMNS}) c
    UNION ALL SELECT table_name, says FROM ({CONSTRAINTS}) c
    UNION ALL SELECT confrelid::regclass::text, conname::text FROM pg_constraint WHERE confrelid > 0
    UNION ALL SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger WHERE NOT tgisinternal
"""


def parts_of(engine):
    """Whatever of a table cannot be changed without a lock that stops its writers."""
    with engine.connect() as connection:
        return {tuple(row) for row in connection.execute(text(LOCKED))}


def altered(before, after):
    """Which tables that were there before a migration has locked."""
    return {table for table, _ in before ^ after} & {table for table, _ in before}


def revisions():
    history = ScriptDirectory.from_config(migrations._config()).walk_revisions()
    return [script.revision for script in history][::-1]


def upgrade(engine, revision):
    config = migrations._config()
    config.attributes["engine"] = engine
    command.upgrade(config, revision)


def test_no_migration_breaks_the_version_before_it_nor_locks_two_tables_at_once(engine):
    first, *later = revisions()
    upgrade(engine, first)
    before, parts = schema_of(engine), parts_of(engine)
    for revision in later:
        upgrade(engine, revision)
        after, new_parts = schema_of(engine), parts_of(engine)
        assert breaks(before, after) == [], f"migration {revision}"
        # In one transaction, that is a deadlock with calls that go on.
        assert len(altered(parts, new_parts)) <= 1, f"migration {revision}: make it several"
        before, parts = after, new_parts


@pytest.mark.parametrize(
    "wrong",
    [
        "ALTER TABLE calls DROP COLUMN waiting_for",
        "ALTER TABLE calls RENAME COLUMN waiting_for TO waits_for",
        "ALTER TABLE runs ALTER COLUMN name TYPE varchar(10)",
        "ALTER TABLE runs ALTER COLUMN name SET NOT NULL",
        "ALTER TABLE runs ADD COLUMN later text NOT NULL",
        "ALTER TABLE events ALTER COLUMN at DROP DEFAULT",
        "ALTER TABLE runs ADD CONSTRAINT short CHECK (length(name) < 10)",
        "CREATE UNIQUE INDEX one_name ON runs (name)",
        "DROP INDEX attempts_one_held_phone",
        "DROP TABLE breakers",
    ],
)
def test_a_migration_that_does_not_only_add_is_seen(engine, wrong):
    upgrade(engine, "head")
    before = schema_of(engine)
    with engine.begin() as connection:
        connection.execute(text(wrong))
    assert breaks(before, schema_of(engine))


@pytest.mark.parametrize(
    "second",
    [
        "ALTER TABLE calls ADD COLUMN later text",
        "CREATE INDEX calls_later ON calls (phone, lead_id)",
        "CREATE TABLE of_the_next_version (call_id bigint REFERENCES calls (id))",
        """CREATE TRIGGER later BEFORE UPDATE ON calls FOR EACH ROW
           EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
    ],
)
def test_a_migration_that_locks_two_tables_is_seen(engine, second):
    upgrade(engine, "head")
    before, parts = schema_of(engine), parts_of(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE runs ADD COLUMN later text"))
        connection.execute(text(second))
    assert breaks(before, schema_of(engine)) == []
    assert altered(parts, parts_of(engine)) == {"runs", "calls"}


ATTEMPT = """
    INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id, carrier, state,
           fence, worker_id, lease_until, claimed_at, occupies_until, unknown_at, ended_at)
    VALUES (:id, :call, :id, :id, 1, CAST(:id AS text), 'c', 'twilio', :state, 1, 'w:1', now(),
            now(), now(), :unknown_at, :ended_at)
"""


def test_what_was_unknown_before_the_upgrade_is_noted(engine):
    upgrade(engine, "0011")
    then = "2026-01-01T00:00:00Z"
    attempts = [
        (uuid4(), state, unknown_at, ended_at)
        for state, unknown_at, ended_at in (
            ("unknown", then, None),
            ("placed", then, None),
            ("ended", then, then),
            ("sending", None, None),
        )
    ]
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        names = ("call", "id", "state", "unknown_at", "ended_at")
        for number, attempt in enumerate(attempts):
            values = dict(zip(names, (number, *attempt), strict=True))
            connection.execute(text(ATTEMPT), values)
    upgrade(engine, "head")
    with engine.connect() as connection:
        noted = connection.execute(text("SELECT attempt_id, is_placed FROM unknown_attempts"))
        noted = {tuple(row) for row in noted}
    assert noted == {(attempts[0][0], False), (attempts[1][0], True)}
