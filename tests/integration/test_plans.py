"""What PostgreSQL does for the statements on a call's way, among 1,000 calls and among 100,000.

docs/performance.md has the figures; they are compared with what is measured here.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, nullcontext

import pytest
from sqlalchemy import text

from benchmarks import reference_sql
from docs.pages import ROOT
from factories import claim, do, make_account, make_run, phone, record, rows, say
from outbound import as_json, recording, runs, settling
from outbound.carriers.base import Progress
from outbound.ids import uuid7
from outbound.models import metadata
from outbound.reconciler import sweeps
from outbound.reconciler.sweeps import Scope
from outbound.reconciler.table import SWEEPS
from outbound.states import Kind
from plans import explained, settle_down, statements
from processes import wait_until
from way import BATCH, Walk, accepted, hot, make_field, said

WAIT = """
    INSERT INTO calls (run_id, account_id, lead_id, phone, waiting_for)
    SELECT :run, :account, 'w' || n, 'w' || n, 'phone'
      FROM generate_series(0, CAST(:waiting AS integer) - 1) n
"""
FEW, MANY = 1000, int(os.environ.get("OUTBOUND_PLANS_CALLS", "100000"))
BIG = {"calls", "attempts", "events", "runs"}


def pages(plans):
    return sum(plan.buffers for plan in plans)


class TestAmongManyCalls:
    PAGE = (ROOT / "docs/performance.md").read_text().partition("## Hot statements")[2]
    LINE = re.compile(
        r"^\| ([^|`]+?) +\| `([^`|]+)` \| ([^|]*) \| [\d,]+ \| ([\d,]+) \| [\d,]+ \| ([\d,]+) \|$",
        re.MULTILINE,
    )
    found = {}

    @pytest.fixture
    def database_url(self, module_database_url):
        return module_database_url

    @pytest.fixture
    def walks(self, node, engine):
        """The plans of every step, by the number of calls that there were."""
        if not self.found:
            field = make_field(engine)
            plans = {}
            for size in (FEW, MANY):
                field.grow(size)
                plans[size] = Walk(node, field).walk()
            self.found |= plans | {"account": field.account, "run": field.run}
        return self.found

    def test_no_statement_reads_a_big_table_from_end_to_end(self, walks):
        plans = [(step, plan) for step, plans in walks[MANY].items() for plan in plans]
        assert not [(step, plan) for step, plan in plans if plan.whole & BIG]

    def test_no_statement_compares_each_of_a_batch_with_each(self, walks):
        # Where a planner expects one due call of a run, it joins the hundred there are like that.
        plans = [(step, plan) for step, plans in walks[MANY].items() for plan in plans]
        assert not [(step, plan) for step, plan in plans if plan.misses > 10 * BATCH]

    def test_no_step_costs_more_among_a_hundred_times_as_many_calls(self, walks):
        for step, few in walks[FEW].items():
            before, after = pages(few), pages(walks[MANY][step])
            # The indexes are a level higher, a batch writes into several of them, and what is
            # dead in them is vacuumed or not yet. A walk would be a hundred times as long.
            assert after <= before * 2 + 250, (step, before, after)

    def test_get_run_reads_neither_calls_nor_attempts(self, walks):
        assert pages(walks[MANY]["GET run"]) <= pages(walks[FEW]["GET run"]) + 5
        for plan in walks[MANY]["GET run"]:
            read = {name.partition("_")[0] for name in plan.indexes} | plan.whole
            assert not read & {"calls", "attempts", "events"}

    def test_nothing_is_looked_for_where_there_is_nothing(self, walks, node):
        assert len(walks[MANY]["GET calls?state=in_progress"]) == 2  # no call, no attempts
        with explained(node.engine) as plans:
            settled = say(node, uuid7(), Progress.RINGING, "CA-of-nobody")
        assert settled.missing
        assert pages(plans) <= 10

    @pytest.mark.parametrize(
        ("of_one", "of_a_hundred", "most"),
        [
            ("claim of 1", "claim of 100", 6),
            ("answer", "100 answers", 6),
            ("callback answered", "100 ends", 12),
        ],
    )
    def test_a_batch_takes_as_many_statements_as_one_call(self, walks, of_one, of_a_hundred, most):
        assert len(walks[MANY][of_one]) == len(walks[MANY][of_a_hundred]) <= most

    def test_a_claim_that_moves_calls_aside_takes_two_statements_more(self, walks):
        plans = walks[MANY]["claim of a held and a suppressed phone"]
        names = [plan.name for plan in plans]
        assert len(names) == 8
        assert {"claims._ASIDE", "claims._END_SUPPRESSED"} <= {*names}

    def test_the_page_has_each_hot_statement_its_indexes_and_its_cost(self, walks):
        lines = {
            (step, name): (set(re.findall(r"\w+", indexes)), few, many)
            for step, name, indexes, few, many in self.LINE.findall(self.PAGE)
        }
        few, many = hot(walks[FEW]), hot(walks[MANY])
        fresh = "\n".join(line(few[key], many[key], key[0]) for key in many)
        assert lines.keys() == many.keys(), f"paste into the page:\n{fresh}"
        for key, (indexes, *costs) in lines.items():
            assert many[key].indexes <= indexes, f"paste into the page:\n{fresh}"
            for plan, cost in zip((few[key], many[key]), costs, strict=True):
                # PostgreSQL before 17 goes down an index once for each id of a list.
                assert plan.buffers <= int(cost.replace(",", "")) * 2 + 300, (
                    f"{plan}; paste into the page:\n{fresh}"
                )

    @pytest.mark.parametrize("held", [False, True], ids=["", "a snapshot is held"])
    def test_a_claim_does_not_walk_past_calls_that_were_placed(self, walks, node, engine, held):
        # Nothing vacuums meanwhile: what was claimed is still in the indexes.
        account = self.found["account"]
        for table in ("calls", "attempts"):
            do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")

        def claim_some():
            with explained(node.engine) as plans:
                claimed = claim(node, account, most=BATCH)
            end(node, claimed)
            return plans

        with snapshot(engine) if held else nullcontext():
            before = claim_some()
            placed = 2000
            for _ in range(placed // BATCH):
                end(node, claim(node, account, most=BATCH))
            # The first claim in each second looks through the whole queue.
            after = min((claim_some() for _ in range(3)), key=pages)
        for first, last in zip(before, after, strict=True):
            assert last.rows <= first.rows + BATCH, (first, last)
            # Entries that are known to be dead are skipped, some hundred on a page of the index.
            # Of the batch before this one nobody knows it yet: each of its calls is looked at.
            assert last.buffers <= first.buffers * 1.1 + placed / 50 + BATCH + 20, (first, last)

    def test_ending_queued_calls_does_not_walk_past_those_that_are_over(self, walks, node, engine):
        run = self.found["run"]
        do(engine, "UPDATE runs SET cancel_requested = true WHERE id = :run", run=run)
        with explained(node.engine) as plans, node.engine.connect() as connection:
            assert runs._end_some(node, run, connection) == runs.END_AT_ONCE
            connection.rollback()
        assert sum(plan.rows for plan in plans) <= 3 * runs.END_AT_ONCE


@contextmanager
def snapshot(engine):
    """Somebody reads for long: nothing that dies meanwhile can be taken away."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as other:
        other.execute(text("SELECT count(*) FROM runs"))
        yield


def line(few, many, step):
    """Write a line of the page's table."""
    figures = " | ".join(f"{n:,}" for n in (few.rows, few.buffers, many.rows, many.buffers))
    indexes = ", ".join(f"`{name}`" for name in sorted(many.indexes))
    return f"| {step} | `{many.name}` | {indexes} | {figures} |"


def end(node, claimed):
    assert len(claimed) == BATCH
    recording.record(node, [accepted(call) for call in claimed])
    recording.record(node, [said(call, Progress.ANSWERED) for call in claimed])


def test_a_batch_of_many_accounts_takes_as_many_statements_as_one_call(node, engine):
    def settled(accounts):
        claimed = []
        for number in range(accounts):
            account = make_account(engine)
            make_run(engine, account, [phone(number)])
            claimed += claim(node, account)
        with statements(node.engine) as seen:
            recording.record(node, [accepted(call) for call in claimed])
            recording.record(node, [said(call, Progress.ANSWERED) for call in claimed])
        return len(seen)

    assert settled(1) == settled(20)


class TestSweeps:
    """Each with what it repairs in several accounts, in as many statements as in one."""

    REDIALS = {"on_unknown": "redial", "on_unknown_after": 900, "max_attempts": 2}

    def broken(self, node, engine, number):
        """An account with something for each sweep."""
        account = make_account(engine)
        phones = (phone(number * 10 + n) for n in range(10))
        claimed = []
        for columns in ({}, self.REDIALS, {"hang_up": True}):
            make_run(engine, account, [next(phones)], **columns)
            claimed += claim(node, account)
        _, unknown, placed = claimed
        record(node, unknown.attempt_id, Kind.AMBIGUOUS)
        recording.record(node, [accepted(placed)])
        do(
            engine,
            "UPDATE attempts SET lease_until = now() - interval '1 hour',"
            " claimed_at = now() - interval '2 days', unknown_at = now() - interval '2 days',"
            " empty_lookups = 3 WHERE account_id = :account",
            account=account,
        )
        make_run(engine, account, status="scheduled", start_at="2026-01-01T00:00:00Z")
        make_run(engine, account)  # over, and not ended
        make_run(engine, account, [next(phones)], cancel_requested=True)
        make_run(engine, account, [next(phones)])
        do(
            engine,
            "INSERT INTO idempotency_keys VALUES"
            " (:account, 'k', '', 202, '{}', '', now() - interval '2 days')",
            account=account,
        )
        do(engine, "UPDATE account_pace SET last_claim_at = NULL, next_send_at = NULL")

    def counted(self, node, engine, sweep, accounts):
        for table in reversed(metadata.sorted_tables):
            do(engine, f"DELETE FROM {table.name}")
        for number in range(accounts):
            self.broken(node, engine, number)
        with statements(node.engine) as seen:
            report = sweeps.run_once(node, sweep, Scope())
        assert report.rows >= accounts
        return len(seen)

    @pytest.mark.parametrize("sweep", SWEEPS, ids=[sweep.name for sweep in SWEEPS])
    def test_a_batch_takes_as_many_statements_as_one_repair(self, node, engine, sweep):
        assert self.counted(node, engine, sweep, 1) == self.counted(node, engine, sweep, 6)


class TestReference:
    """Bare SQL on our tables, beside which dialling is measured."""

    @pytest.fixture
    def database_url(self, fresh_database_url):
        return fresh_database_url

    def test_it_finds_what_is_due_by_the_queues_index(self, engine):
        # Once the index had got another condition, and we looked too good beside the reference.
        make_run(engine, make_account(engine), [phone(n) for n in range(5000)])
        settle_down(engine)
        # PostgreSQL before 18 has no uuidv7().
        claim_some = reference_sql.OURS[0].replace("uuidv7()", "gen_random_uuid()")
        with explained(engine) as plans, engine.begin() as connection:
            assert len(connection.exec_driver_sql(claim_some, (BATCH,)).all()) == BATCH
        (plan,) = plans
        assert "calls" not in plan.whole
        assert "calls_due_idx" in plan.indexes


class TestYoung:
    """Analyzed when there was no attempt, and not since."""

    @pytest.fixture
    def database_url(self, fresh_database_url):
        return fresh_database_url

    def test_a_claim_does_not_read_every_phone_that_was_ever_held(self, node, engine):
        account = make_account(engine, calls_per_second=1e6)
        make_run(engine, account, [phone(n) for n in range(21 * BATCH)], calls_per_second=1e6)
        settle_down(engine)
        for table in ("calls", "attempts"):
            do(engine, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        for _ in range(20):
            end(node, claim(node, account, most=BATCH))
        with explained(node.engine) as plans:
            claim(node, account, most=BATCH)
        (plan,) = [plan for plan in plans if plan.name == "claims._CLAIM"]
        assert plan.rows <= 4 * BATCH, plan

    def test_a_freed_phone_does_not_read_every_call_that_waits_for_another(self, node, engine):
        account = make_account(engine)
        run = make_run(engine, account, [phone(0)])
        settle_down(engine)
        do(engine, "ALTER TABLE calls SET (autovacuum_enabled = off)")
        waiting = 20_000
        do(engine, WAIT, run=run, account=account, waiting=waiting)
        freed = as_json.dumps([{"account_id": account, "phones": [f"w{n}" for n in range(BATCH)]}])
        with explained(node.engine) as plans, node.engine.begin() as connection:
            woken = connection.execute(settling._WAKE_PHONES, {"rows": freed})
        assert woken.rowcount == BATCH
        assert plans[0].rows <= 3 * BATCH, plans


class TestHot:
    """Updates that touch no index, while the pages have room; and those that must touch one."""

    @pytest.fixture
    def database_url(self, fresh_database_url):
        return fresh_database_url

    @pytest.fixture
    def cold(self, node, engine):
        """Tell which tables had updates that were not HOT while something was done."""

        def read():
            # A session tells its statistics at the latest when it ends.
            node.engine.dispose()
            engine.dispose()
            wait_until(lambda: not rows(engine, OTHERS), 60, "sessions linger")
            found = rows(
                engine, "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
            )
            return {row["relname"]: (row["n_tup_upd"], row["n_tup_hot_upd"]) for row in found}

        def measure(work):
            settle_down(engine)  # the pages have room
            before = read()
            done = work()
            after = read()
            cold, updated = {}, set()
            for table, (updates, hot_ones) in after.items():
                more = updates - before[table][0]
                if more:
                    updated.add(table)
                if more > hot_ones - before[table][1]:
                    cold[table] = more - (hot_ones - before[table][1])
            return cold, updated, done

        return measure

    def test_only_what_enters_or_leaves_an_index_is_written_to_one(self, node, engine, cold):
        account = make_account(engine)
        make_run(engine, account, [phone(n) for n in range(2 * BATCH)])
        for _ in range(5):  # as a worker that claims call by call
            claim(node, account, most=1)

        # Out of the queue.
        found, updated, calls = cold(lambda: claim(node, account, most=BATCH))
        assert found == {"calls": len(calls)}
        assert updated == {"account_pace", "runs", "calls", "run_counters"}

        # The carrier's id is in an index.
        found, _, _ = cold(lambda: recording.record(node, [accepted(c) for c in calls]))
        assert found.pop("attempts") == len(calls)
        assert found.get("calls", 0) <= NO_ROOM

        # Each in a transaction of its own: a hundred rows of few pages in one leave no room.
        for word in (Progress.RINGING, Progress.IN_PROGRESS):
            found, updated, _ = cold(
                lambda word=word: [recording.record(node, [said(c, word)]) for c in calls]
            )
            assert (found, updated) == ({}, {"attempts"})

        # An end gives the phone back, and leaves what is live.
        found, _, _ = cold(lambda: recording.record(node, [said(c, Progress.BUSY) for c in calls]))
        assert found.pop("attempts") == len(calls)
        assert found.get("calls", 0) <= NO_ROOM

    def test_that_an_attempt_becomes_unknown_is_written_to_no_index_of_it(self, node, engine, cold):
        account = make_account(engine)
        make_run(engine, account, [phone(n) for n in range(BATCH + 1)])
        calls = claim(node, account, most=BATCH)
        found, updated, _ = cold(
            lambda: [record(node, call.attempt_id, Kind.AMBIGUOUS) for call in calls]
        )
        assert (found, updated) == ({}, {"attempts", "calls", "run_counters"})


NO_ROOM = 10
"""So many of a hundred rows changed at once may find their page full."""

OTHERS = """
    SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
       AND backend_type = 'client backend'
"""
