"""Connections whose server goes away."""

import pytest
from sqlalchemy import text

from outbound import db


@pytest.fixture
def die(node, engine):
    """Have PostgreSQL end all sessions of the node."""

    def die():
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    return die


def read(node):
    with db.reading(node.engine) as connection:
        return connection.execute(text("SELECT 1")).scalar()


def test_a_server_that_goes_away_after_the_last_answer_is_no_error(node, die):
    for _ in range(node.engine.pool.size() + 1):  # and no connection is lost to the pool
        with db.reading(node.engine) as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
            die()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is asked
            read(node)
        assert db.is_away(caught.value)
        assert read(node) == 1


def test_a_connection_that_rested_is_asked_whether_it_lives(node, die, monkeypatch):
    read(node)
    die()
    monkeypatch.setattr(db, "PING_AFTER_SECONDS", 0.0)
    assert read(node) == 1


def test_what_is_read_outside_a_transaction_leaves_the_next_one_whole(node):
    read(node)
    with node.engine.connect() as connection:
        connection.execute(text("CREATE TABLE written (n integer)"))
    with node.engine.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('written')")).scalar() is None
