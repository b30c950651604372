"""What a run shows is true at every moment."""

import threading
from datetime import datetime, timedelta

import pytest

from factories import claim, do, make_account, make_run, phone, record, say
from outbound import progress, runs
from outbound.carriers.base import Progress
from outbound.errors import Refused
from outbound.ids import uuid7
from outbound.models import STATE_COUNTERS
from outbound.states import Kind


@pytest.fixture
def account(engine):
    return make_account(engine)


def show(engine, account, run):
    with engine.connect() as connection:
        return progress.run(connection, account, run)


def listed(engine, account, status=None, limit=None, cursor=None):
    with engine.connect() as connection:
        return progress.runs(connection, account, status, limit, cursor)


def test_the_numbers_add_up_while_calls_move(node, engine, account):
    run, over = make_run(engine, account, map(phone, range(60))), threading.Event()

    def dial():
        try:
            while claimed := claim(node, account, most=5):
                for call in claimed:
                    record(node, call.attempt_id, Kind.AMBIGUOUS)
                    say(node, call.attempt_id, Progress.ANSWERED, f"CA{call.call_id}")
        finally:
            over.set()

    worker, seen = threading.Thread(target=dial), set()
    worker.start()
    while not over.is_set():
        shown = show(engine, account, run)
        assert sum(shown[name] for name in STATE_COUNTERS) == shown["total_leads"] == 60
        assert sum(shown["outcomes"].values()) == (
            shown["completed"] + shown["failed"] + shown["cancelled"]
        )
        seen.add(shown["completed"])
    worker.join()
    assert len(seen) > 2
    assert show(engine, account, run)["outcomes"]["answered"] == 60


@pytest.mark.parametrize(
    ("status", "cancel", "can"),
    [
        ("scheduled", False, {"pause", "cancel"}),
        ("pending", False, {"pause", "cancel"}),
        ("running", False, {"pause", "cancel"}),
        ("paused", False, {"resume", "cancel"}),
        ("running", True, set()),
        ("paused", True, set()),
        ("completed", False, set()),
        ("cancelled", True, set()),
        ("expired", False, set()),
    ],
)
def test_what_can_be_done_with_a_run(engine, account, status, cancel, can):
    over = status in ("completed", "cancelled", "expired")
    ended = {"ended_at": datetime.fromisoformat("2026-01-01T00:00:00Z")} if over else {}
    run = make_run(engine, account, status=status, cancel_requested=cancel, **ended)
    shown = show(engine, account, run)
    assert {verb for verb in ("pause", "resume", "cancel") if shown[f"can_{verb}"]} == can


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
@pytest.mark.parametrize("status", ["scheduled", "pending", "running", "paused"])
def test_what_is_said_to_be_possible_is(node, engine, account, status, verb):
    from outbound.accounts import Caller

    run = make_run(engine, account, [phone(1)], status=status)
    if not show(engine, account, run)[f"can_{verb}"]:
        return
    more = {"hang_up": False} if verb == "cancel" else {}
    getattr(runs, verb)(node, account, run, Caller(account, uuid7(), "operator", "r"), **more)


_STOPPED = "UPDATE account_pace SET stopped = true"
_BROKEN = "INSERT INTO breakers SELECT id, 'twilio', now(), now(), 'wrong token' FROM accounts"


class TestEta:
    def guess(self, engine, account, run):
        eta = show(engine, account, run)["eta"]
        return eta and datetime.fromisoformat(eta) - datetime.now().astimezone()

    def test_it_follows_the_slower_pace(self, engine, account):
        run = make_run(engine, account, map(phone, range(50)), calls_per_second=2.0)
        about = timedelta(seconds=5)
        assert abs(self.guess(engine, account, run) - timedelta(seconds=25)) < about
        do(engine, "UPDATE account_pace SET calls_per_second = 0.5")
        assert abs(self.guess(engine, account, run) - timedelta(seconds=100)) < about

    def test_it_follows_what_is_seen_where_that_is_slower_still(self, node, engine, account):
        run = make_run(engine, account, map(phone, range(4)))
        (call,) = claim(node, account, most=1)
        say(node, call.attempt_id, Progress.BUSY, "CA1")
        do(engine, "UPDATE runs SET started_at = clock_timestamp() - interval '10 minutes'")
        guess = self.guess(engine, account, run)
        assert abs(guess - timedelta(minutes=30)) < timedelta(minutes=1)

    @pytest.mark.parametrize("status", ["scheduled", "paused", "completed"])
    def test_there_is_none_for_a_run_that_does_not_run(self, engine, account, status):
        run = make_run(engine, account, [phone(1)], status=status)
        assert show(engine, account, run)["eta"] is None

    @pytest.mark.parametrize("held", [_STOPPED, _BROKEN])
    def test_there_is_none_while_nobody_knows_when_dialling_goes_on(self, engine, account, held):
        run = make_run(engine, account, [phone(1)])
        assert show(engine, account, run)["eta"]
        do(engine, held)
        assert show(engine, account, run)["eta"] is None


def test_an_etag_covers_every_field_but_the_eta(engine, account):
    shown = show(engine, account, make_run(engine, account, [phone(1)]))
    tag = progress.etag(shown)
    for name, value in shown.items():
        same = progress.etag(shown | {name: f"not {value}"}) == tag
        assert same == (name == "eta"), name


def test_the_breakers_error_is_shown_until_the_run_ends(engine, account):
    run = make_run(engine, account, [phone(1)])
    do(
        engine,
        """INSERT INTO breakers VALUES (:account, 'twilio', now(), now(), 'wrong token')""",
        account=account,
    )
    assert show(engine, account, run)["last_error"] == "wrong token"
    assert show(engine, account, run)["status"] == "pending"
    do(engine, "UPDATE runs SET ended_at = now(), status = 'cancelled'")
    assert show(engine, account, run)["last_error"] is None


class TestLists:
    def test_every_page_size_gives_each_run_once_newest_first(self, engine, account):
        made = [str(make_run(engine, account, name=str(n))) for n in range(5)]
        for limit in ("1", "2", "5", "6", None):
            found, cursor = [], None
            while True:
                page = listed(engine, account, limit=limit, cursor=cursor)
                found += [run["run_id"] for run in page["items"]]
                if not (cursor := page["next_cursor"]):
                    break
            assert found == sorted(made, reverse=True)

    def test_a_status_is_filtered_before_pages_are_cut(self, engine, account):
        paused = [str(make_run(engine, account, status="paused")) for _ in range(2)]
        make_run(engine, account)
        page = listed(engine, account, "paused", "2")
        assert {run["run_id"] for run in page["items"]} == set(paused)
        assert page["next_cursor"] is None

    def test_another_accounts_runs_do_not_exist(self, engine, account):
        run = make_run(engine, account)
        stranger = make_account(engine)
        assert listed(engine, stranger)["items"] == []
        with pytest.raises(Refused) as refused:
            show(engine, stranger, run)
        assert refused.value.status == 404

    def test_a_list_shows_a_run_as_the_run_itself_does(self, engine, account):
        run = make_run(engine, account, [phone(1)], status="paused")
        assert listed(engine, account)["items"] == [show(engine, account, run)]
