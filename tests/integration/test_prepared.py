"""Statements that are planned once for each connection."""

import pytest
from sqlalchemy import event, text

from factories import claim, do, make_account, make_run, phone
from outbound import accounts, claims, db, progress, recording
from outbound.carriers.base import Progress
from outbound.prepared import prepared
from plans import explained, settle_down
from way import accepted, add_past_runs, now, said

NUMBERS = prepared("SELECT n FROM numbers WHERE n = ANY (CAST(:wanted AS integer[])) ORDER BY n")


@pytest.fixture
def numbers(engine):
    do(engine, "CREATE TABLE numbers (n integer)")
    do(engine, "INSERT INTO numbers SELECT generate_series(1, 9)")
    yield
    do(engine, "DROP TABLE numbers")


@pytest.fixture
def seen(node):
    """The statements that the driver was given."""
    found = []

    def note(_connection, _cursor, statement, *_):
        found.append(statement)

    event.listen(node.engine, "after_cursor_execute", note)
    return found


def read(node):
    def body(connection):
        return list(connection.execute(NUMBERS, {"wanted": [2, 4, 40]}).scalars())

    return db.transaction(node.engine, body)


def known(node):
    with node.engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()


def test_a_connection_plans_a_statement_once(node, numbers, seen):
    for _ in range(3):
        assert read(node) == [2, 4]
    with node.engine.connect() as connection:
        found = connection.execute(text("SELECT * FROM pg_prepared_statements")).mappings().one()
    assert (found["generic_plans"], found["custom_plans"]) == (3, 0)
    assert all(statement.startswith("EXECUTE outbound_") for statement in seen[:3])


def test_a_command_which_runs_a_statement_once_does_not(engine, numbers):
    with engine.connect() as connection:
        assert list(connection.execute(NUMBERS, {"wanted": [2, 40]}).scalars()) == [2]
        left = text("SELECT count(*) FROM pg_prepared_statements")
        assert connection.execute(left).scalar_one() == 0


def test_a_session_that_lost_its_statements_is_left_and_the_transaction_repeated(node, numbers):
    read(node)
    with node.engine.connect() as connection:
        connection.execute(text("DEALLOCATE ALL"))
        connection.commit()
    assert read(node) == [2, 4]


def test_a_claim_whose_session_lost_its_statements_is_made_on_another(node, engine):
    account = make_account(engine)
    make_run(engine, account, [phone(0), phone(1)])
    assert claim(node, account, most=1)
    with node.engine.connect() as connection:
        connection.execute(text("DEALLOCATE ALL"))
        connection.commit()
    assert claim(node, account, most=1)


def test_a_session_in_which_somebody_else_prepared_is_left_and_the_transaction_repeated(
    node, numbers
):
    read(node)
    with node.engine.connect() as connection:
        connection.connection.info["prepared_as"].clear()
    assert read(node) == [2, 4]


def test_a_migration_that_changes_what_a_statement_returns_is_survived(node, engine, numbers):
    read(node)
    do(engine, "ALTER TABLE numbers ALTER n TYPE bigint")
    assert read(node) == [2, 4]


class TestYoung:
    """Planned while there was nothing, and not since."""

    @pytest.fixture
    def database_url(self, fresh_database_url):
        return fresh_database_url

    def test_no_plan_of_an_empty_table_is_a_bad_one_when_it_is_big(self, node, engine):
        settle_down(engine)
        for table in ("calls", "attempts", "runs", "run_counters", "events"):
            do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        account = make_account(engine, calls_per_second=1e6)
        run = make_run(engine, account, [phone(0)])
        with engine.begin() as connection:
            _, key = accounts.create_key(connection, account, "viewer")
        self.dial(node, account)
        self.look(node, account, key, run)
        assert known(node) > 10
        add_past_runs(engine, run)
        make_run(engine, account, [phone(n) for n in range(1, 5000)], calls_per_second=1e6)
        for _ in range(10):
            self.dial(node, account, most=400)
        with explained(node.engine) as plans:
            self.dial(node, account, most=100)
            self.look(node, account, key, run)
        assert all(plan.statement.startswith("EXECUTE") for plan in plans if plan.is_ours)
        assert not [plan for plan in plans if plan.whole]
        bad = [plan for plan in plans if plan.rows > 1000 or plan.misses > 1000]
        assert not bad

    def test_a_migration_that_adds_a_column_is_noticed_by_nobody(self, node, engine):
        account = make_account(engine)
        run = make_run(engine, account, [phone(0), phone(1)])
        with engine.begin() as connection:
            _, key = accounts.create_key(connection, account, "viewer")
        self.dial(node, account)
        self.look(node, account, key, run)
        tables = "api_keys sessions calls attempts runs run_counters events account_pace breakers"
        for table in tables.split():
            do(engine, f"ALTER TABLE {table} ADD added integer")
        failed = []
        event.listen(node.engine, "handle_error", failed.append)
        self.dial(node, account)
        self.look(node, account, key, run)
        assert not failed

    def look(self, node, account, key, run):
        digest = accounts.digest(key)
        with db.reading(node.engine) as connection:
            assert progress.run_and_asker(connection, accounts.WHO, digest, run)["id"] == run
            claims.seconds_until_due(connection, account, now(connection))

    def dial(self, node, account, most=1):
        claimed = claim(node, account, most=most)
        assert claimed
        recording.record(node, [accepted(call) for call in claimed])
        recording.record(node, [said(call, Progress.ANSWERED) for call in claimed])
