"""Purge: people's data goes, counts and outcomes stay, and nobody is dialled without a phone."""

from datetime import timedelta

import pytest

from factories import (
    FakeCarrier,
    attempt_of,
    call_of,
    claim,
    counted_from_rows,
    counters_of,
    do,
    make_account,
    make_run,
    one,
    phone,
    record,
    rows,
    run_of,
    say,
)
from outbound import audit, purging, suppressions
from outbound.accounts import Caller
from outbound.actions import Operator
from outbound.carriers.base import Progress
from outbound.errors import Refused
from outbound.ids import uuid7
from outbound.models import metadata
from outbound.states import Decision, Kind

BY = Operator("cli:dana", None, "cli", "host:1")
DAYS = timedelta(days=1)


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def purge(engine):
    return lambda days=90, account=None: purging.purge(engine, BY, days * DAYS, account)


def ended(node, engine, account, phones, ago="100 days", **columns):
    """A run whose calls were answered, that ended so long ago."""
    known = {"name": "Renewals for Dana", "metadata": {"owner": "Dana"}, "max_attempts": 2}
    run = make_run(engine, account, phones, **(known | columns))
    for call in claim(node, account):
        say(node, call.attempt_id, Progress.ANSWERED, f"CA{call.attempt_id}", error="to Dana")
    do(engine, 'UPDATE calls SET variables = \'{"name": "Dana"}\' WHERE run_id = :run', run=run)
    age(engine, run, ago)
    return run


def age(engine, run, ago):
    do(
        engine,
        "UPDATE runs SET ended_at = clock_timestamp() - CAST(:ago AS interval) WHERE id = :run",
        run=run,
        ago=ago,
    )


def everything(engine):
    """Every row of every table, as text."""
    return "\n".join(
        row["t"]
        for name in metadata.tables
        for row in rows(engine, f"SELECT t::text FROM {name} t")
    )


def test_nothing_of_a_person_is_left_and_the_numbers_stay(node, engine, account, purge):
    phones = [phone(n) for n in range(3)]
    run = ended(node, engine, account, phones)
    do(
        engine,
        "INSERT INTO rejections (run_id, index, lead_id, code) VALUES (:r, 5, 'Dana', 'bad')",
        r=run,
    )
    do(
        engine,
        "INSERT INTO events (account_id, run_id, event, source, worker_id, details)"
        " VALUES (:a, :r, 'decided', 'api', 'w', '{\"note\": \"Dana said so\", \"to\": \"x\"}')",
        a=account,
        r=run,
    )
    before = counters_of(engine, run)
    done = purge()
    assert (done.runs, done.calls) == (1, 3)
    left = everything(engine)
    assert [word for word in ("Dana", "lead-", "<Response", *phones) if word in left] == []
    assert counters_of(engine, run) == before == counted_from_rows(engine, run)
    assert {row["outcome"] for row in rows(engine, "SELECT outcome FROM attempts")} == {"answered"}
    assert len({row["phone"] for row in rows(engine, "SELECT phone FROM calls")}) == 3
    assert one(engine, "SELECT code, lead_id FROM rejections") == {"code": "bad", "lead_id": None}
    assert one(engine, "SELECT details FROM events WHERE event = 'decided'")["details"] == {
        "to": "x"
    }


def test_who_purged_is_written_down_and_twice_changes_nothing(node, engine, account, purge):
    run = ended(node, engine, account, [phone(1)])
    purge()
    before = everything(engine)
    assert purge().runs == 0
    assert everything(engine) == before
    event = one(engine, "SELECT * FROM events WHERE event = 'run_purged'")
    assert (event["run_id"], event["actor"], event["details"]) == (run, "cli:dana", {"calls": 1})


def test_a_run_without_phones_is_not_audited_as_if_nothing_differed(node, engine, account, purge):
    run = ended(node, engine, account, [phone(1)])
    purge()
    with pytest.raises(Refused, match="purged"):
        audit.audit(engine, FakeCarrier(), run)


def test_a_younger_run_and_one_that_goes_on_are_left_alone(node, engine, account, purge):
    young = ended(node, engine, account, [phone(1)], ago="80 days")
    going = make_run(engine, account, [phone(2)], name="Renewals")
    before = everything(engine)
    assert purge().runs == 0
    assert everything(engine) == before
    assert run_of(engine, young)["name"]
    assert run_of(engine, going)["name"]


def test_only_the_account_that_is_named(node, engine, account, purge):
    other = make_account(engine)
    ours = ended(node, engine, account, [phone(1)])
    theirs = ended(node, engine, other, [phone(1)])
    assert purge(account=account).runs == 1
    assert run_of(engine, ours)["purged_at"]
    assert not run_of(engine, theirs)["purged_at"]


def test_calls_that_still_keep_their_phones_from_being_called_again_wait(
    node, engine, account, purge
):
    ended(node, engine, account, [phone(1)])
    do(engine, "UPDATE account_pace SET min_seconds_between_calls = 31536000")
    assert purge().runs == 0
    do(engine, "UPDATE account_pace SET min_seconds_between_calls = 3600")
    assert purge().runs == 1


def test_suppressions_stay_and_the_phone_of_a_removed_one_goes(node, engine, account, purge):
    who = Caller(account, uuid7(), "operator", "r")
    suppressions.add(node, account, [phone(1), phone(2)], None, who)
    suppressions.remove(node, account, phone(2), who)
    do(engine, "UPDATE events SET at = at - interval '100 days'")
    purge()
    assert one(engine, "SELECT phone FROM suppressions")["phone"] == phone(1)
    assert phone(2) not in everything(engine)


class TestUnknowns:
    @pytest.fixture
    def call(self, node, engine, account):
        """An unknown call in a run that ended long ago."""
        run = make_run(engine, account, [phone(1)])
        (call,) = claim(node, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        age(engine, run, "100 days")
        do(engine, "UPDATE attempts SET phone_held = false")
        return call

    def unknown_since(self, engine, days):
        do(
            engine,
            "UPDATE attempts SET unknown_at = clock_timestamp() - make_interval(days => :days)",
            days=days,
        )

    def test_one_of_the_last_thirty_days_keeps_its_run(self, engine, call, purge):
        self.unknown_since(engine, 29)
        assert purge().runs == 0
        assert attempt_of(engine, call.attempt_id)["phone"] == phone(1)
        self.unknown_since(engine, 31)
        assert purge().runs == 1
        assert attempt_of(engine, call.attempt_id)["phone"] == f"purged-{call.call_id}"

    @pytest.mark.parametrize("decision", [Decision.REDIAL, Decision.NOT_PLACED])
    def test_no_decision_queues_it_again_once_its_phone_is_gone(
        self, node, engine, account, call, purge, decision
    ):
        self.unknown_since(engine, 31)
        purge()
        known = {"decision": decision, "source": "operator", "by": "someone"}
        record(node, call.attempt_id, Kind.DECISION, **known)
        assert call_of(engine, call.call_id)["state"] == "cancelled"
        assert run_of(engine, call.run_id)["status"] == "completed"
        assert claim(node, account) == ()

    def test_a_late_word_still_settles_it(self, node, engine, call, purge):
        self.unknown_since(engine, 31)
        purge()
        say(node, call.attempt_id, Progress.ANSWERED, "CA9")
        assert call_of(engine, call.call_id)["outcome"] == "answered"
        assert counters_of(engine, call.run_id) == counted_from_rows(engine, call.run_id)


class TestInterrupted:
    def test_it_goes_on_where_it_was_and_nothing_was_queued_meanwhile(
        self, node, engine, account, purge, monkeypatch
    ):
        run = ended(node, engine, account, [phone(n) for n in range(5)])
        monkeypatch.setattr(purging, "BATCH", 2)
        some, batches = purging._purge_some, []

        def die_at_the_second(*given):
            batches.append(given)
            if len(batches) == 2:
                raise KeyboardInterrupt
            return some(*given)

        monkeypatch.setattr(purging, "_purge_some", die_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            purge()
        phones = [row["phone"] for row in rows(engine, "SELECT phone FROM calls ORDER BY id")]
        assert [one.startswith("purged-") for one in phones] == [True, True, False, False, False]
        found = run_of(engine, run)
        assert found["purge_started_at"]
        assert not found["purged_at"]
        monkeypatch.setattr(purging, "_purge_some", some)
        assert purge().runs == 1
        assert [row for row in rows(engine, "SELECT * FROM calls") if "+" in row["phone"]] == []
