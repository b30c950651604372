"""One message of an account waits at a time; who has several has no more turns than others."""

import pytest
import redis

from outbound import doorbell
from outbound.doorbell import DIAL
from outbound.ids import uuid7


@pytest.fixture
def client(node):
    found = redis.Redis.from_url(node.settings.redis_url)
    found.flushdb()
    yield found
    found.close()


def test_an_account_is_rung_for_again_once_its_message_is_taken_up(node, client):
    account = uuid7()
    assert node.doorbell.ring(account)
    assert not node.doorbell.ring(account)
    assert doorbell.take_up(client, DIAL, account)
    assert node.doorbell.ring(account)


def test_where_others_wait_only_the_last_of_an_accounts_messages_is_answered(node, client):
    account = uuid7()
    node.doorbell.ring(account, messages=3)
    for _ in range(doorbell.FEW):
        node.doorbell.ring(uuid7())
    answered = [doorbell.take_up(client, DIAL, account) for _ in range(3)]
    assert answered == [False, False, True]
    assert node.doorbell.ring(account)


def test_where_nobody_else_waits_each_message_keeps_a_worker_at_the_account(node, client):
    account = uuid7()
    node.doorbell.ring(account, messages=3)
    for _ in range(3):
        client.lpop(f"{doorbell.NAMESPACE}:{doorbell.QUEUE}")  # as a worker fetches it
        assert doorbell.take_up(client, DIAL, account)
        node.doorbell.ring(account)


def test_a_message_whose_ring_was_forgotten_is_answered_and_bars_nobody(node, client):
    account = uuid7()
    assert doorbell.take_up(client, DIAL, account)
    assert not client.keys(doorbell.ring_key(DIAL, account))
    assert node.doorbell.ring(account)
