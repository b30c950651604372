"""What a call shows: its attempts, why it waits, what happened when; and all calls as CSV."""

import csv
import io
from uuid import UUID

import pytest
from sqlalchemy import insert

from factories import (
    call_of,
    claim,
    do,
    make_account,
    make_run,
    one,
    phone,
    record,
    rows,
    say,
)
from outbound import calls, models, pages
from outbound.carriers.base import Progress
from outbound.errors import Refused
from outbound.ids import uuid7
from outbound.states import Decision, Kind, Outcome
from plans import statements

FIELDS = {
    "call_id", "lead_id", "phone", "state", "outcome", "attempts", "next_attempt_at",
    "waiting_for", "variables", "cancel_requested", "last_error",
}  # fmt: skip
ATTEMPT_FIELDS = {
    "attempt_id", "number", "state", "outcome", "carrier", "carrier_call_id", "claimed_at",
    "placed_at", "answered_at", "ended_at", "duration", "error", "decision", "decided_by",
}  # fmt: skip


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def run(engine, account):
    return make_run(engine, account, [phone(n) for n in range(5)])


def read_page(engine, account, run, state=None, outcome=None, limit=None, cursor=None):
    with engine.connect() as connection:
        return calls.page(connection, account, run, state, outcome, limit, cursor)


def read_one(engine, account, run, call):
    with engine.connect() as connection:
        return calls.one(connection, account, run, str(call))


def read_rejections(engine, account, run, limit=None, cursor=None):
    with engine.connect() as connection:
        return calls.rejections(connection, account, run, limit, cursor)


def read_csv(engine, account, run):
    text = b"".join(calls.csv(engine, account, run)).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def add_calls(engine, account, run, n, start=1000):
    with engine.begin() as connection:
        connection.execute(
            insert(models.calls),
            [
                {"run_id": run, "account_id": account, "lead_id": f"x-{i}", "phone": f"+1{i:010d}"}
                for i in range(start, start + n)
            ],
        )


def ids(page):
    return [item["call_id"] for item in page["items"]]


def newest_first(engine, run):
    found = rows(engine, "SELECT id FROM calls WHERE run_id = :run ORDER BY id DESC", run=run)
    return [str(row["id"]) for row in found]


def waits_for(engine, account, run):
    (why,) = {
        item["waiting_for"]
        for item in read_page(engine, account, run, "queued", limit="500")["items"]
    }
    return why


class TestPage:
    def test_newest_first_with_every_field(self, engine, account, run):
        page = read_page(engine, account, run)
        assert ids(page) == newest_first(engine, run)
        assert page["next_cursor"] is None
        assert all(set(item) == FIELDS for item in page["items"])
        item = page["items"][-1]
        assert (item["lead_id"], item["phone"], item["state"]) == ("lead-0", phone(0), "queued")
        assert (item["outcome"], item["attempts"], item["variables"]) == (None, [], {})
        assert item["next_attempt_at"].endswith("Z")

    def test_pages_are_stable_while_calls_come(self, engine, account, run):
        before, seen, cursor = newest_first(engine, run), [], None
        while True:
            page = read_page(engine, account, run, limit="2", cursor=cursor)
            seen += ids(page)
            add_calls(engine, account, run, 3, start=1000 + 3 * len(seen))
            cursor = page["next_cursor"]
            if not cursor:
                break
        assert seen == before

    def test_a_call_that_moves_is_neither_shown_twice_nor_left_out(
        self, node, engine, account, run
    ):
        page = read_page(engine, account, run, limit="2")
        for call in claim(node, account):
            say(node, call.attempt_id, Progress.ANSWERED, f"CA{call.call_id}")
        rest = read_page(engine, account, run, cursor=page["next_cursor"])
        assert ids(page) + ids(rest) == newest_first(engine, run)

    def test_a_full_last_page_has_no_next(self, engine, account, run):
        assert read_page(engine, account, run, limit="5")["next_cursor"] is None

    def test_each_call_has_its_own_attempts_in_order(self, node, engine, account):
        run = make_run(engine, account, [phone(1), phone(2)], max_attempts=2, retry_delay=0)
        first = claim(node, account)
        for call in first:
            say(node, call.attempt_id, Progress.BUSY, f"CA1-{call.call_id}")
        second = claim(node, account)
        assert len(second) == 2

        for item in read_page(engine, account, run)["items"]:
            mine = [c for c in (*first, *second) if str(c.call_id) == item["call_id"]]
            assert [a["attempt_id"] for a in item["attempts"]] == [str(c.attempt_id) for c in mine]
            assert [a["number"] for a in item["attempts"]] == [1, 2]
            assert all(set(a) >= ATTEMPT_FIELDS for a in item["attempts"])
            assert (item["state"], item["next_attempt_at"]) == ("dialing", None)

    def test_the_number_of_statements_does_not_grow_with_the_calls(
        self, node, engine, account, run
    ):
        claim(node, account)
        taken = []
        for limit in ("1", "5"):
            with statements(engine) as seen:
                read_page(engine, account, run, limit=limit)
            taken.append(len(seen))
        assert taken == [3, 3]

    def test_an_empty_page_is_a_page(self, engine, account, run):
        page = read_page(engine, account, run, outcome="busy")
        assert page == {"items": [], "next_cursor": None}


class TestFilters:
    @pytest.fixture
    def moved(self, node, engine, account, run):
        """One call in each state but queued and cancelled, each with another outcome."""
        dialing, live, lost, busy, failed = claim(node, account)
        say(node, live.attempt_id, Progress.RINGING, "CA2")
        record(node, lost.attempt_id, Kind.AMBIGUOUS, error="timeout")
        say(node, busy.attempt_id, Progress.BUSY, "CA4")
        record(node, failed.attempt_id, Kind.REFUSED_CALLEE, error="21211")
        named = {
            "dialing": dialing, "live": live, "unknown": lost, "completed": busy, "failed": failed
        }  # fmt: skip
        return {state: str(call.call_id) for state, call in named.items()}

    @pytest.mark.parametrize("state", ["dialing", "live", "unknown", "completed", "failed"])
    def test_by_state(self, engine, account, run, moved, state):
        assert ids(read_page(engine, account, run, state)) == [moved[state]]

    def test_in_progress_is_dialing_and_live(self, engine, account, run, moved):
        found = ids(read_page(engine, account, run, "in_progress"))
        assert found == [moved["live"], moved["dialing"]]

    @pytest.mark.parametrize("state", ["queued", "cancelled"])
    def test_a_state_without_calls_is_empty(self, engine, account, run, moved, state):
        assert ids(read_page(engine, account, run, state)) == []

    def test_by_outcome_and_by_both(self, engine, account, run, moved):
        assert ids(read_page(engine, account, run, outcome="busy")) == [moved["completed"]]
        assert ids(read_page(engine, account, run, "failed", "failed")) == [moved["failed"]]
        assert ids(read_page(engine, account, run, "failed", "busy")) == []

    @pytest.mark.parametrize(
        ("query", "pointer"),
        [
            ({"state": "asleep"}, "#/query/state"),
            ({"state": ""}, "#/query/state"),
            ({"outcome": "in_progress"}, "#/query/outcome"),
            ({"limit": "501"}, "#/query/limit"),
            ({"cursor": "!"}, "#/query/cursor"),
            ({"cursor": pages.encode(uuid7())}, "#/query/cursor"),
        ],
    )
    def test_a_bad_query_is_refused(self, engine, account, run, query, pointer):
        with pytest.raises(Refused) as refused:
            read_page(engine, account, run, **query)
        assert refused.value.status == 422
        assert [fault.pointer for fault in refused.value.faults] == [pointer]


class TestWhoMayRead:
    @pytest.mark.parametrize("read", [read_page, read_rejections, calls.csv])
    def test_a_missing_run_and_another_accounts_run_are_the_same_404(
        self, engine, account, run, read
    ):
        answers = []
        for asker, asked in ((make_account(engine), run), (account, uuid7())):
            with pytest.raises(Refused) as refused:
                read(engine, asker, asked)  # a CSV is refused before it is read from
            answers.append(vars(refused.value))
        assert answers[0] == answers[1]
        assert (answers[0]["status"], answers[0]["code"]) == (404, "not_found")

    def test_another_accounts_call_is_not_found(self, engine, account, run):
        call = newest_first(engine, run)[0]
        other = make_account(engine)
        theirs = make_run(engine, other, [phone(1)])
        for asker, asked in ((other, run), (other, theirs), (account, theirs)):
            with pytest.raises(Refused) as refused:
                read_one(engine, asker, asked, call)
            assert refused.value.status == 404

    def test_another_runs_call_is_not_found(self, engine, account, run):
        sibling = make_run(engine, account, [phone(9)])
        with pytest.raises(Refused) as refused:
            read_one(engine, account, run, newest_first(engine, sibling)[0])
        assert refused.value.detail == "There is no such call."

    @pytest.mark.parametrize(
        "call",
        ["", "x", "0", "-1", "+1", "1.0", " 1", "1e3", "٣", "\x00", "9" * 18, str(2**63), "9" * 99],
    )
    def test_what_can_be_no_call_is_not_found(self, engine, account, run, call):
        with pytest.raises(Refused) as refused:
            read_one(engine, account, run, call)
        assert (refused.value.status, refused.value.detail) == (404, "There is no such call.")

    def test_a_row_of_another_account_is_never_shown(self, node, engine, account, run):
        # Whatever went wrong elsewhere, no read trusts the run's id alone.
        (call, *_) = claim(node, account)
        other = make_account(engine)
        for table in ("calls", "events"):
            do(engine, f"UPDATE {table} SET account_id = :other", other=other)
        assert ids(read_page(engine, account, run)) == []
        assert read_csv(engine, account, run) == []
        with pytest.raises(Refused):
            read_one(engine, account, run, call.call_id)
        do(engine, "UPDATE calls SET account_id = :account", account=account)
        do(engine, "UPDATE attempts SET account_id = :other", other=other)
        shown = read_one(engine, account, run, call.call_id)
        assert (shown["attempts"], shown["timeline"]) == ([], [])


class TestWhyItWaits:
    SLOW = "UPDATE {} SET next_send_at = now() + '1 hour'"
    BREAK = "INSERT INTO breakers SELECT id, 'twilio', now(), now() + '1 hour', 'x' FROM accounts"

    @pytest.mark.parametrize("why", ["retry", "phone", "recent_call"])
    def test_its_own_reason_comes_first_until_it_is_due(self, engine, account, run, why):
        do(
            engine,
            "UPDATE calls SET waiting_for = :why, next_attempt_at = now() + '1 hour'",
            why=why,
        )
        do(engine, "UPDATE runs SET status = 'paused'")
        assert waits_for(engine, account, run) == why
        do(engine, "UPDATE calls SET next_attempt_at = now() - interval '1 s'")
        assert waits_for(engine, account, run) == "paused"

    def test_a_call_that_is_free_to_go_waits_for_nothing(self, engine, account, run):
        assert waits_for(engine, account, run) is None

    def test_a_stale_reason_is_not_shown_once_the_call_is_due(self, engine, account, run):
        do(engine, "UPDATE calls SET waiting_for = 'retry', next_attempt_at = now()")
        assert waits_for(engine, account, run) is None

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ("UPDATE runs SET status = 'paused'", "paused"),
            ("UPDATE runs SET status = 'scheduled'", "start_at"),
            ("UPDATE runs SET start_at = now() + '1 hour'", "start_at"),
            (BREAK, "breaker"),
            ("UPDATE account_pace SET stopped = true", "stopped"),
            ("UPDATE account_pace SET not_before = now() + '1 hour'", "pace"),
            ("UPDATE account_pace SET not_before = now() - interval '1 s'", None),
            ("UPDATE account_pace SET max_live_calls = 0", "slots"),
            ("UPDATE runs SET concurrency = 0", "slots"),
            (SLOW.format("account_pace"), "pace"),
            (SLOW.format("runs"), "pace"),
            ("UPDATE runs SET next_send_at = now() + '50 ms'", None),
        ],
    )
    def test_each_reason_alone(self, engine, account, run, change, why):
        do(engine, change)
        assert waits_for(engine, account, run) == why

    def test_of_several_reasons_the_first_in_order_is_shown(self, engine, account, run):
        do(engine, "UPDATE runs SET status = 'paused', start_at = now() + '1 hour'")
        do(engine, self.BREAK)
        do(engine, "UPDATE account_pace SET stopped = true, max_live_calls = 0")
        do(engine, self.SLOW.format("runs"))
        seen = []
        for removal in (
            "UPDATE runs SET status = 'running'",
            "UPDATE runs SET start_at = NULL",
            "UPDATE account_pace SET stopped = false",
            "DELETE FROM breakers",
            "UPDATE account_pace SET max_live_calls = 1000",
            "UPDATE runs SET next_send_at = NULL",
        ):
            seen.append(waits_for(engine, account, run))
            do(engine, removal)
        seen.append(waits_for(engine, account, run))
        assert seen == ["paused", "start_at", "stopped", "breaker", "slots", "pace", None]

    @pytest.mark.parametrize("limit", ["account_pace SET max_live_calls", "runs SET concurrency"])
    def test_live_calls_fill_the_slots(self, node, engine, account, run, limit):
        (call,) = claim(node, account, most=1)
        do(engine, f"UPDATE {limit} = 1")
        for table in ("runs", "account_pace"):
            do(engine, f"UPDATE {table} SET next_send_at = NULL")
        assert waits_for(engine, account, run) == "slots"
        say(node, call.attempt_id, Progress.ANSWERED, "CA1")
        assert waits_for(engine, account, run) is None

    def test_another_run_fills_the_accounts_slots_but_not_this_runs(self, node, engine, account):
        make_run(engine, account, [phone(50)])
        claim(node, account)
        run = make_run(engine, account, [phone(51)], concurrency=1)
        do(engine, "UPDATE account_pace SET next_send_at = NULL")
        assert waits_for(engine, account, run) is None
        do(engine, "UPDATE account_pace SET max_live_calls = 1")
        assert waits_for(engine, account, run) == "slots"

    def test_an_unknown_leaves_its_slot_when_its_time_is_over(self, node, engine, account, run):
        (call,) = claim(node, account, most=1)
        record(node, call.attempt_id, Kind.AMBIGUOUS, error="timeout")
        do(engine, "UPDATE runs SET concurrency = 1, next_send_at = NULL")
        do(engine, "UPDATE account_pace SET next_send_at = NULL")
        assert waits_for(engine, account, run) == "slots"
        do(engine, "UPDATE attempts SET occupies_until = now()")
        assert waits_for(engine, account, run) is None

    def test_another_accounts_breaker_stops_nothing_here(self, engine, account, run):
        do(
            engine,
            "INSERT INTO breakers VALUES (:other, 'twilio', now(), now(), 'x')",
            other=make_account(engine),
        )
        assert waits_for(engine, account, run) is None

    def test_only_a_queued_call_waits(self, node, engine, account, run):
        (call,) = claim(node, account, most=1)
        do(engine, "UPDATE runs SET status = 'paused'")
        shown = read_one(engine, account, run, call.call_id)
        assert (shown["waiting_for"], shown["next_attempt_at"]) == (None, None)


class TestOne:
    def test_it_is_the_item_of_the_page_and_a_timeline(self, engine, account, run):
        item = read_page(engine, account, run)["items"][0]
        shown = read_one(engine, account, run, item["call_id"])
        assert shown == item | {"timeline": []}

    def test_variables_are_shown(self, engine, account, run):
        do(engine, """UPDATE calls SET variables = '{"name": "Dana"}'""")
        assert read_page(engine, account, run)["items"][0]["variables"] == {"name": "Dana"}

    def test_a_persons_decision_is_on_the_attempt(self, node, engine, account, run):
        (call,) = claim(node, account, most=1)
        record(node, call.attempt_id, Kind.AMBIGUOUS, error="timeout")
        record(
            node,
            call.attempt_id,
            Kind.DECISION,
            source="operator",
            decision=Decision.PLACED,
            outcome=Outcome.ANSWERED,
            by="key-1",
        )
        (attempt,) = read_one(engine, account, run, call.call_id)["attempts"]
        assert (attempt["decision"], attempt["decided_by"]) == ("placed", "key-1")
        assert (attempt["state"], attempt["outcome"]) == ("ended", "answered")


class TestTimeline:
    def told(self, engine, account, run, call):
        return read_one(engine, account, run, call.call_id)["timeline"]

    def test_an_answered_call_tells_its_steps_in_order(self, node, engine, account, run):
        (call,) = claim(node, account, most=1)
        for progress in (Progress.RINGING, Progress.IN_PROGRESS, Progress.ANSWERED):
            say(node, call.attempt_id, progress, "CA1", duration=7)

        told = self.told(engine, account, run, call)

        steps = [entry["event"] for entry in told if entry["source"] == "attempt"]
        assert steps[0] == "attempt_claimed"
        assert sorted(steps) == sorted(
            f"attempt_{step}" for step in ("claimed", "placed", "ringing", "answered", "ended")
        )
        assert {entry["attempt_id"] for entry in told} == {str(call.attempt_id)}
        assert [entry["at"] for entry in told] == sorted(entry["at"] for entry in told)

    def test_each_event_row_is_told_with_its_details(self, node, engine, account, run):
        (call,) = claim(node, account, most=1)
        record(node, call.attempt_id, Kind.LEASE_RAN_OUT, source="sweep")
        do(engine, "UPDATE attempts SET lease_until = now() - interval '1 s'")
        record(node, call.attempt_id, Kind.LEASE_RAN_OUT, source="sweep", error="lease ran out")

        stored = rows(engine, "SELECT * FROM events WHERE call_id = :call", call=call.call_id)
        told = [e for e in self.told(engine, account, run, call) if e["source"] != "attempt"]

        assert [e["event"] for e in told] == [row["event"] for row in stored]
        (entry,) = [e for e in told if e["event"] == "attempt_unknown"]
        assert entry["worker_id"] == node.worker_id
        assert entry["details"]["error"] == "lease ran out"

    def test_a_fact_is_told_once(self, node, engine, account, run):
        (call,) = claim(node, account, most=1)
        do(engine, "UPDATE attempts SET lease_until = now() - interval '1 s'")
        record(node, call.attempt_id, Kind.LEASE_RAN_OUT, source="sweep")
        told = [entry["event"] for entry in self.told(engine, account, run, call)]
        assert told.count("attempt_unknown") == 1

    def test_a_released_attempt_was_not_a_call_that_ended(self, node, engine, account, run):
        (call,) = claim(node, account, most=1)
        record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
        told = [entry["event"] for entry in self.told(engine, account, run, call)]
        assert told.count("attempt_released") == 1
        assert "attempt_ended" not in told

    def test_another_calls_events_are_not_told(self, node, engine, account, run):
        mine, other = claim(node, account, most=2)
        say(node, other.attempt_id, Progress.BUSY, "CA1")
        told = self.told(engine, account, run, mine)
        assert {entry["attempt_id"] for entry in told} == {str(mine.attempt_id)}


class TestCsv:
    def test_one_row_for_each_call_in_order(self, node, engine, account):
        run = make_run(engine, account, [phone(1)], max_attempts=2, retry_delay=0)
        (first,) = claim(node, account)
        say(node, first.attempt_id, Progress.BUSY, "CA1")
        (second,) = claim(node, account)
        say(node, second.attempt_id, Progress.IN_PROGRESS, "CA2")
        say(node, second.attempt_id, Progress.ANSWERED, "CA2", duration=7)

        (row,) = read_csv(engine, account, run)

        assert list(row) == [
            "call_id", "lead_id", "phone", "state", "outcome", "attempts", "carrier_call_id",
            "answered_at", "ended_at", "duration",
        ]  # fmt: skip
        shown = read_one(engine, account, run, row["call_id"])["attempts"][-1]
        assert row == {
            "call_id": str(first.call_id),
            "lead_id": "lead-0",
            "phone": "'" + phone(1),
            "state": "completed",
            "outcome": "answered",
            "attempts": "2",
            "carrier_call_id": "CA2",
            "answered_at": shown["answered_at"],
            "ended_at": shown["ended_at"],
            "duration": "7",
        }

    def test_it_starts_with_a_byte_order_mark_and_a_header(self, engine, account):
        run = make_run(engine, account)
        (only,) = calls.csv(engine, account, run)
        assert only.startswith(b"\xef\xbb\xbfcall_id,lead_id,")
        assert only.count(b"\r\n") == 1

    @pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
    def test_what_a_spreadsheet_would_run_is_made_harmless(self, engine, account, run, first):
        do(engine, "UPDATE calls SET lead_id = :start || lead_id", start=first)
        assert {row["lead_id"][:2] for row in read_csv(engine, account, run)} == {"'" + first}

    def test_quotes_commas_newlines_and_other_scripts_come_back(self, engine, account, run):
        lead = 'דנה, "the\nfirst"'
        do(engine, "UPDATE calls SET lead_id = :lead WHERE phone = :p", lead=lead, p=phone(0))
        assert read_csv(engine, account, run)[0]["lead_id"] == lead

    def test_every_call_once_over_several_pages(self, engine, account, run):
        add_calls(engine, account, run, 2 * calls.CSV_ROWS)
        found = [row["call_id"] for row in read_csv(engine, account, run)]
        assert found == newest_first(engine, run)[::-1]

    def test_no_connection_is_held_while_a_client_reads(self, engine, account, run):
        add_calls(engine, account, run, calls.CSV_ROWS)
        for _ in calls.csv(engine, account, run):
            assert engine.pool.checkedout() == 0

    def test_only_this_runs_calls(self, engine, account, run):
        make_run(engine, account, [phone(77)])
        assert len(read_csv(engine, account, run)) == 5


class TestRejections:
    @pytest.fixture
    def rejected(self, engine, run) -> list[int]:
        indexes = [0, 3, 4, 10, 99_999]
        for index in reversed(indexes):
            do(
                engine,
                "INSERT INTO rejections VALUES (:run, :index, :lead, 'invalid_phone')",
                run=run,
                index=index,
                lead=f"lead-{index}" if index else None,
            )
        return indexes

    def test_in_body_order(self, engine, account, run, rejected):
        page = read_rejections(engine, account, run)
        assert [item["index"] for item in page["items"]] == rejected
        assert page["items"][:2] == [
            {"index": 0, "lead_id": None, "code": "invalid_phone"},
            {"index": 3, "lead_id": "lead-3", "code": "invalid_phone"},
        ]
        assert page["next_cursor"] is None

    def test_by_pages_each_once(self, engine, account, run, rejected):
        seen, cursor = [], None
        while True:
            page = read_rejections(engine, account, run, "1", cursor)
            seen += [item["index"] for item in page["items"]]
            cursor = page["next_cursor"]
            if not cursor:
                break
        assert seen == rejected

    def test_none_is_an_empty_page(self, engine, account, run):
        assert read_rejections(engine, account, run) == {"items": [], "next_cursor": None}

    @pytest.mark.parametrize("cursor", ["!", pages.encode(UUID(int=7)), pages.encode(-1)])
    def test_a_tampered_cursor_is_refused(self, engine, account, run, cursor):
        with pytest.raises(Refused) as refused:
            read_rejections(engine, account, run, None, cursor)
        assert refused.value.status == 422


def test_a_released_call_is_queued_again_without_a_reason_of_its_own(node, engine, account, run):
    (call,) = claim(node, account, most=1)
    record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
    assert call_of(engine, call.call_id)["waiting_for"] is None
    assert one(engine, "SELECT count(*) FROM attempts")["count"] == 1
    shown = read_one(engine, account, run, call.call_id)
    assert (shown["state"], shown["waiting_for"]) == ("queued", None)
    assert shown["attempts"][0]["state"] == "released"
