"""Accounts: their limits, and the keys that speak for them."""

import threading
from uuid import UUID

import pytest
from sqlalchemy import text

from factories import one, rows
from outbound import accounts
from outbound.errors import Refused
from outbound.ids import uuid7
from processes import wait_until


def make(engine, name="acme", **fields):
    with engine.begin() as connection:
        return accounts.create(connection, name, **fields)


def change(engine, account, **changes):
    with engine.begin() as connection:
        return accounts.change(connection, account, changes)


def get(engine, account):
    with engine.connect() as connection:
        return accounts.get(connection, account)


def make_key(engine, account, role="viewer", name=None):
    with engine.begin() as connection:
        return accounts.create_key(connection, account, role, name)


def who(engine, secret):
    with engine.connect() as connection:
        return accounts.authenticate(connection, secret, "request-1")


def test_ids_are_uuid7_and_sort_by_time():
    ids = [uuid7() for _ in range(1000)]
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    assert len(set(ids)) == 1000
    stamps = [one.int >> 80 for one in ids]
    assert stamps == sorted(stamps)


def test_a_new_account_has_the_defaults_of_the_contract(engine):
    account = make(engine)
    found = get(engine, account)
    assert account.version == 7
    expected = {
        "account_id": account,
        "name": "acme",
        "max_live_calls": 20,
        "calls_per_second": 1.0,
        "min_seconds_between_calls": 3600,
        "stopped": False,
        "caller_ids": [],
        "default_region": None,
        "default_answer_url": None,
        "default_twiml": None,
    }
    assert expected.items() <= found.items()


def test_a_name_is_taken_once(engine):
    make(engine)
    with pytest.raises(Refused) as refused:
        make(engine)
    assert (refused.value.code, refused.value.status) == ("name_taken", 409)


BAD = [
    ({"max_live_calls": 0}, "#/max_live_calls"),
    ({"max_live_calls": 10_001}, "#/max_live_calls"),
    ({"calls_per_second": 0}, "#/calls_per_second"),
    ({"calls_per_second": float("nan")}, "#/calls_per_second"),
    ({"calls_per_second": float("inf")}, "#/calls_per_second"),
    ({"min_seconds_between_calls": -1}, "#/min_seconds_between_calls"),
    ({"min_seconds_between_calls": 31_536_001}, "#/min_seconds_between_calls"),
    ({"default_region": "XX"}, "#/default_region"),
    ({"default_region": "il"}, "#/default_region"),
    ({"caller_ids": ["+97231234567", "031234567"]}, "#/caller_ids/1"),
    ({"caller_ids": ["+1"]}, "#/caller_ids/0"),
    ({"default_answer_url": "https://a.example", "default_twiml": "<R/>"}, "#/default_twiml"),
]


@pytest.mark.parametrize(("fields", "pointer"), BAD, ids=[str(fields) for fields, _ in BAD])
def test_a_bad_field_is_pointed_at_when_made_and_when_changed(engine, fields, pointer):
    with pytest.raises(Refused) as made:
        make(engine, "bad", **fields)
    account = make(engine)
    before = get(engine, account)
    with pytest.raises(Refused) as changed:
        change(engine, account, **fields)
    assert [fault.pointer for fault in made.value.faults] == [pointer]
    assert [fault.pointer for fault in changed.value.faults] == [pointer]
    assert get(engine, account) == before
    assert len(rows(engine, "SELECT * FROM accounts")) == 1


def test_the_ends_of_each_range_are_taken(engine):
    account = make(engine)
    for place in (0, 1):
        ends = {key: ends[place] for key, ends in accounts.RANGES.items()}
        change(engine, account, **ends)
        assert ends.items() <= get(engine, account).items()


def test_callers_numbers_are_kept_as_e164(engine):
    account = make(engine, caller_ids=["+972 3-123-4567", "+1 (202) 555-0125"])
    assert get(engine, account)["caller_ids"] == ["+97231234567", "+12025550125"]


def test_one_script_gives_way_to_the_other_only_when_it_is_taken_away(engine):
    account = make(engine, default_twiml="<Response/>")
    with pytest.raises(Refused):
        change(engine, account, default_answer_url="https://a.example")
    change(engine, account, default_answer_url="https://a.example", default_twiml=None)
    assert get(engine, account)["default_twiml"] is None


@pytest.mark.parametrize(
    ("changes", "rings"),
    [
        ({"max_live_calls": 21}, True),
        ({"calls_per_second": 1.5}, True),
        ({"max_live_calls": 20}, False),
        ({"max_live_calls": 1}, False),
        ({"calls_per_second": 0.5}, False),
        ({"min_seconds_between_calls": 4000}, False),
        ({"default_region": "IL"}, False),
        ({}, False),
    ],
)
def test_only_a_raised_limit_is_worth_a_ring(engine, changes, rings):
    assert change(engine, make(engine), **changes) is rings


def test_a_change_waits_for_who_holds_the_pace_and_is_judged_by_what_it_then_finds(engine):
    account = make(engine)
    rang = []
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
    with engine.begin() as other:
        raised = text("UPDATE account_pace SET max_live_calls = 50 WHERE account_id = :id")
        other.execute(raised, {"id": account})
        thread = threading.Thread(
            target=lambda: rang.append(change(engine, account, max_live_calls=30))
        )
        thread.start()
        wait_until(lambda: rows(engine, waiting))
        assert rang == []
    thread.join(10)
    assert rang == [False]  # from 50 to 30, not from 20
    assert get(engine, account)["max_live_calls"] == 30


def test_a_missing_account_is_not_found(engine):
    for ask in (get, change, make_key):
        with pytest.raises(Refused) as refused:
            ask(engine, uuid7())
        assert refused.value.status == 404


def test_a_key_speaks_for_its_account_until_it_is_revoked(engine):
    account = make(engine)
    key_id, secret = make_key(engine, account, "operator")
    assert who(engine, secret) == accounts.Caller(account, key_id, "operator", "request-1")
    with engine.begin() as connection:
        assert accounts.revoke_key(connection, account, key_id)
    assert who(engine, secret) is None
    with engine.begin() as connection:
        first = one(engine, "SELECT revoked_at FROM api_keys")["revoked_at"]
        assert accounts.revoke_key(connection, account, key_id)
    assert one(engine, "SELECT revoked_at FROM api_keys")["revoked_at"] == first


def test_a_secret_is_long_and_stored_nowhere(engine):
    _, secret = make_key(engine, make(engine))
    assert secret.startswith("ob_")
    assert len(secret) >= 35
    stored = str(dict(one(engine, "SELECT * FROM api_keys")))
    assert secret not in stored
    assert secret[3:20] not in stored


@pytest.mark.parametrize("secret", ["", "ob_", "ob_wrong", "ob_é", "x", "ob_" + "a" * 10_000])
def test_no_other_word_opens_anything(engine, secret):
    make_key(engine, make(engine))
    assert who(engine, secret) is None


def test_another_accounts_key_cannot_be_revoked(engine):
    mine, theirs = make(engine, "mine"), make(engine, "theirs")
    key_id, secret = make_key(engine, theirs)
    with engine.begin() as connection:
        assert not accounts.revoke_key(connection, mine, key_id)
    assert who(engine, secret)


def test_an_unknown_role_is_refused(engine):
    account = make(engine)
    for role in ("", "root", "viewer "):
        with pytest.raises(Refused) as refused:
            make_key(engine, account, role)
        assert refused.value.faults[0].pointer == "#/role"


def test_keys_are_listed_newest_first_by_pages_and_only_ones_own(engine):
    mine, theirs = make(engine, "mine"), make(engine, "theirs")
    made = [make_key(engine, mine)[0] for _ in range(5)]
    make_key(engine, theirs)
    found: list[UUID] = []
    with engine.connect() as connection:
        while page := accounts.list_keys(connection, mine, 2, found[-1] if found else None):
            found += [key["key_id"] for key in page]
    assert found == sorted(made, reverse=True)
