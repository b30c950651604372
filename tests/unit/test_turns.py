"""One thread of a process dials for an account at a time."""

from __future__ import annotations

from uuid import uuid4

from outbound.turns import Turns

ONE, OTHER = uuid4(), uuid4()


def test_who_comes_while_another_thread_is_at_it_leaves_it_to_that_one():
    turns = Turns()
    assert turns.take(ONE)
    assert not turns.take(ONE)
    assert turns.leave(ONE)


def test_nobody_looks_once_more_if_nobody_asked():
    turns = Turns()
    turns.take(ONE)
    assert not turns.leave(ONE)


def test_an_asking_is_answered_once():
    turns = Turns()
    turns.take(ONE)
    turns.take(ONE)
    turns.leave(ONE)
    assert turns.take(ONE)
    assert not turns.leave(ONE)


def test_accounts_do_not_wait_for_one_another():
    turns = Turns()
    assert turns.take(ONE)
    assert turns.take(OTHER)
