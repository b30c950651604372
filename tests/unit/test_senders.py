"""The threads that send, and how many of them a claim gets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from outbound import senders
from outbound.senders import Senders
from processes import wait_until


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(senders, "GATHER_SECONDS", 20.0)


class Work:
    """Each piece lasts until it is let go."""

    def __init__(self) -> None:
        self.ended = threading.Semaphore(0)
        self.begun: list[object] = []

    def __call__(self, call: object) -> None:
        self.begun.append(call)
        if not self.ended.acquire(timeout=20):
            raise TimeoutError
        if call == "bad":
            raise ValueError

    def let_go(self, count: int) -> None:
        for _ in range(count):
            self.ended.release()


def test_a_reservation_takes_all_that_are_idle_at_once(patient):
    some: Senders[str] = Senders(8, Work())
    assert some.reserve(1) == 8
    some.give_back(5)
    assert some.reserve(1) == 5


def test_a_reservation_waits_a_moment_for_half_of_them(patient):
    work = Work()
    some: Senders[str] = Senders(8, work)
    some.reserve(1)
    some.send("abcdefgh")
    with ThreadPoolExecutor(1) as pool:
        reserved = pool.submit(some.reserve, 10)
        work.let_go(4)
        assert reserved.result(10) == 4
    work.let_go(4)


def test_a_reservation_makes_do_with_one_after_that_moment():
    work = Work()
    some: Senders[str] = Senders(8, work)
    some.reserve(1)
    some.send("abcdefgh")
    work.let_go(1)
    assert some.reserve(10) == 1
    work.let_go(7)


def test_nothing_is_reserved_while_all_are_busy():
    some: Senders[str] = Senders(2, Work())
    some.reserve(1)
    assert some.reserve(0.01) == 0


def test_who_waits_for_a_sender_hears_that_they_are_stopped(patient):
    some: Senders[str] = Senders(2, Work())
    some.reserve(1)
    with ThreadPoolExecutor(1) as pool:
        reserved = pool.submit(some.reserve, 20)
        some.stop()
        assert reserved.result(10) == 0


def test_a_sender_whose_work_fails_is_idle_again():
    work = Work()
    some: Senders[str] = Senders(1, work)
    some.reserve(1)
    some.send(["bad"])
    work.let_go(2)
    assert some.reserve(10) == 1
    some.send(["good"])
    assert wait_until(lambda: work.begun == ["bad", "good"])


def test_closing_waits_for_what_is_being_sent():
    work = Work()
    some: Senders[str] = Senders(2, work)
    some.reserve(1)
    some.send("ab")
    assert not some.close(0.01)
    work.let_go(2)
    assert some.close(10)
