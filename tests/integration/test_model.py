"""Random interleavings through the real verbs, on real PostgreSQL, judged after every step.

Workers claim, freeze, die and record late; the carrier accepts, loses, refuses and tells in any
order or not at all; people and policies decide; leaders sweep, deposed ones too; time leaps. At
the end everybody is well again, and every lead must have found its one end.

OUTBOUND_MODEL_EXAMPLES=5000 gives a longer search, with other seeds each time.
"""

import os
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import patch
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event, text

import factories
from factories import CARRIER, make_account, make_run, phone
from model import Fate, Ledger, check, check_claim, check_ends, empty, let_time_pass, look
from outbound import claims, db, hanging_up, logs, recording, runs, unknowns
from outbound.accounts import Caller
from outbound.api import webhooks
from outbound.carriers.base import Answer, Callback, Progress, Verdict
from outbound.dialer import Dialer
from outbound.errors import Refused
from outbound.node import Node
from outbound.reconciler import on_demand, sweeps
from outbound.reconciler.leader import Reconciler, _probe_of
from outbound.reconciler.sweeps import Deposed, Scope
from outbound.reconciler.table import SWEEPS
from outbound.states import Decision, Outcome

LONG = int(os.environ.get("OUTBOUND_MODEL_EXAMPLES", "0"))
PHONES = 4
ROUND = 20_000
ROUNDS = 60

some = st.integers(0, 11)
accounts = st.sampled_from([0, 0, 0, 1])
workers = st.integers(0, 2)
rarely = st.sampled_from([False] * 4 + [True])
fates = st.sampled_from([Fate.ACCEPTED] * 4 + [Fate.LOST] * 3 + [Fate.VANISHED] * 2 + list(Fate))
leaps = st.sampled_from([1, 3, 16, 16, 46, 61, 91, 601, 901, 3_700, 90_000])
steps = st.sampled_from(["send"] * 5 + ["record"] * 5 + ["thaw"] * 2 + ["freeze", "die"])
modes = st.sampled_from(["find", "find", "find", "lag", "lag", "fail"])
finals = [Progress.ANSWERED, Progress.BUSY, Progress.NO_ANSWER, Progress.FAILED, Progress.CANCELLED]
words = st.sampled_from([Progress.RINGING, Progress.IN_PROGRESS, *finals])
run_shapes = st.fixed_dictionaries(
    {
        "leads": st.sets(st.integers(0, PHONES - 1), min_size=2),
        "concurrency": st.integers(1, 3),
        "max_attempts": st.integers(1, 3),
        "retry_delay": st.sampled_from([0, 60]),
        "retry_on": st.sampled_from([["busy", "no_answer"], ["busy", "no_answer", "failed"]]),
        "on_unknown": st.sampled_from(["hold", "redial"]),
        "starts": st.sampled_from([None] * 7 + [900]),
        "expires": st.sampled_from([None] * 4 + [1_000, 100_000]),
    }
)


STEPS = []


def can_happen(weight, **known):
    """Let a verb be a step, so many times as likely as others. One rule for all of them:
    hypothesis would leave out a random half of many rules, and then hardly a call is placed."""

    def note(verb):
        step = st.just(verb.__name__), st.fixed_dictionaries(known)
        STEPS.extend(st.tuples(*step) for _ in range(weight))
        return verb

    return note


class MuteBell:
    """Every ring gets lost: the rules look when they like, as the leader would make them."""

    def ring(self, *_, **__):
        return False

    def ring_again(self, rings):
        pass


@dataclass(frozen=True)
class Process(Node):
    """A node under a name and with counters of its own, in this one process."""

    number: int = 0

    @property
    def worker_id(self):
        return f"model:{self.number}"

    @property
    def shard(self):
        return self.number


class Worker:
    """A worker process whose every step the model takes: claim, send, freeze, thaw, record."""

    def __init__(self, node, ledger):
        self.node = node
        self.ledger = ledger
        self.start()

    def start(self):
        """Begin anew, as after a crash: what the old process knew is forgotten."""
        self.claimed, self.frozen, self.answers = [], [], []
        self.dialer = Dialer(self.node, self.ledger)
        self.recorder = self.dialer._recorder
        self.dialer.close(5)  # its threads; the model sends and writes in their place
        self.dialer._recorder = SimpleNamespace(put=self.answers.append)

    @property
    def is_busy(self):
        return bool(self.claimed or self.frozen or self.answers)

    def claim(self, account, most, scan):
        self.claimed += claims.claim(self.node, CARRIER, account, most, scan).calls

    def send(self, call, fate):
        self.ledger.fate, self.ledger.worker_id = fate, self.node.worker_id
        self.dialer._place(call)

    def freeze(self, call):
        """Stop between the last look at the clock and the socket's write."""
        with patch.object(self.dialer, "_ask", lambda _: Answer(Verdict.AMBIGUOUS)):
            self.dialer._place(call)
        self.frozen.append(self.answers.pop())

    def thaw(self, answered, fate):
        if answered.reason is None:
            self.ledger.fate, self.ledger.worker_id = fate, None
            answered = replace(answered, answer=self.dialer._ask(answered.call))
        self.answers.append(answered)

    def record(self, how_many):
        batch, self.answers[:] = self.answers[:how_many], self.answers[how_many:]
        if batch:
            self.recorder._write(batch)
        return batch

    def grow_older(self, seconds):
        def older(call):
            return call._replace(lease_ends=call.lease_ends - seconds, send_at=0.0)

        self.claimed = [older(call) for call in self.claimed]
        self.frozen = [replace(one, call=older(one.call)) for one in self.frozen]


def crashed():
    """The process dies after its COMMIT: nobody advances the run."""
    return patch.object(runs, "advance", lambda *_: [])


class Protocol(RuleBasedStateMachine):
    """The model. Its rules are what may happen; `model` says what must hold.

    What a step draws never hangs on the world, and there are no preconditions: a step with
    nothing to do does nothing. Else a chance in the world would be one in the search.
    """

    node = None
    reader = None
    drained = 0
    made = 0

    @classmethod
    def next_id(cls):
        """Ids in the order of their making, also within a millisecond: a run can be repeated."""
        cls.made += 1
        return UUID(int=0x7 << 76 | 0x2 << 62 | cls.made)

    @classmethod
    def next_ids(cls, count):
        return [cls.next_id() for _ in range(count)]

    def __init__(self):
        super().__init__()
        empty(self.reader)
        type(self).made = 0
        self.ledger = Ledger(self.reader)
        self.workers = [
            Worker(replace(self.node, number=number, source="dramatiq_worker"), self.ledger)
            for number in range(3)
        ]
        self.web = replace(self.node, number=8, source="api")
        self.reconciler = Reconciler.__new__(Reconciler)
        self.reconciler._node = replace(self.node, number=9, source="reconciler")
        self.reconciler._probe = _probe_of(SWEEPS)
        self.reconciler._lock = SimpleNamespace(is_trusted=True)
        self.reconciler._stop = threading.Event()
        self.epochs = []
        self.crashed = set()
        self.clock = time.monotonic()
        self.seen = None

    @initialize(
        shapes=st.lists(run_shapes, min_size=3, max_size=3),
        max_live=st.integers(2, 6),
        gap=st.sampled_from([0, 0, 3600]),
        tells=st.booleans(),
    )
    def begin(self, shapes, max_live, gap, tells):
        engine = self.node.engine
        limits = {"max_live_calls": max_live, "min_seconds_between_calls": gap}
        self.accounts = [make_account(engine, **limits), make_account(engine, **limits)]
        self.runs = [
            self._make_run(self.accounts[number // 2], **shape)
            for number, shape in enumerate(shapes)
        ]
        self.ledger.tells_attempts = tells
        self.epochs.append(self.reconciler._become_leader())
        self.seen = look(self.reader)

    def _make_run(self, account, leads, starts, expires, **columns):
        now = look(self.reader).now
        return make_run(
            self.node.engine,
            account,
            [phone(n) for n in sorted(leads)],
            status="scheduled" if starts else "pending",
            start_at=now + timedelta(seconds=starts) if starts else None,
            expires_at=now + timedelta(seconds=expires) if expires else None,
            on_unknown_after=900,
            max_call_duration=600,
            **columns,
        )

    # What workers do.

    def _claim(self, worker, account, most, scan):
        worker.claim(account, most, scan)
        check_claim(self.seen, look(self.reader), account)

    @contextmanager
    def _maybe_crash(self, crash):
        if crash:
            self.crashed |= set(self.runs)
        with crashed() if crash else nullcontext():
            yield

    @can_happen(6, who=workers, account=accounts, most=st.integers(1, 3), fate=fates)
    def dial(self, who, account, most, fate):
        """The happy path, but for the carrier: claim, send, record."""
        worker = self.workers[who]
        self._claim(worker, self.accounts[account], most, 0)
        while worker.claimed:
            worker.send(worker.claimed.pop(0), fate)
        self._record(worker, 9)

    @can_happen(
        3, who=workers, account=accounts, most=st.integers(1, 3), scan=st.sampled_from([0, 200])
    )
    def claim(self, who, account, most, scan):
        self._claim(self.workers[who], self.accounts[account], most, scan)

    @can_happen(8, n=some, step=steps, fate=fates, crash=rarely)
    def work(self, n, step, fate, crash):
        """One worker takes its next step, or stops in the middle of one."""
        busy = [worker for worker in self.workers if worker.is_busy]
        worker = _pick(busy or self.workers, n)
        if not busy:
            self._claim(worker, self.accounts[0], 2, 0)
        elif step == "die":
            worker.start()
        elif worker.answers and (step == "record" or not (worker.claimed or worker.frozen)):
            with self._maybe_crash(crash):
                self._record(worker, 1 + n % 3)
        elif worker.frozen and (step == "thaw" or not worker.claimed):
            worker.thaw(worker.frozen.pop(0), fate)
        elif worker.claimed:
            call = worker.claimed.pop(n % len(worker.claimed))
            worker.freeze(call) if step == "freeze" else worker.send(call, fate)

    def _record(self, worker, how_many):
        batch = worker.record(how_many)
        found = look(self.reader).attempts
        for one in batch:
            if one.answer and one.answer.carrier_call_id:
                attempt = found[one.call.attempt_id]
                assert attempt["carrier_call_id"] == one.answer.carrier_call_id
                assert attempt["state"] not in ("sending", "released")

    # What the carrier does and says.

    @can_happen(
        7,
        n=some,
        word=words,
        which=st.sampled_from([None, None, -1, -1, -1, 0, 1, 2]),
        crash=rarely,
    )
    def go_on(self, n, word, which, crash):
        """A call goes on, and the carrier tells: in time, late, again, out of order, or not."""
        if not self.ledger.calls:
            return
        call = _pick(self.ledger.calls, n)
        call.say(word)
        if call.words and which is not None:
            with self._maybe_crash(crash):
                self._deliver(call, call.words[max(which, -1) % len(call.words)])

    def _deliver(self, call, word):
        before = look(self.reader)
        self._receive(call.attempt_id, call.sid, word)
        call.heard.append(word)
        seen = look(self.reader)
        attempt = seen.attempts[call.attempt_id]
        if any(later["number"] > attempt["number"] for later in seen.counted(attempt["call_id"])):
            same = before.calls[attempt["call_id"]]["next_attempt_at"]
            assert seen.calls[attempt["call_id"]]["next_attempt_at"] == same
        assert attempt["state"] in ("placed", "ended", "unknown")
        assert (attempt["state"] == "unknown") <= bool(attempt["placed_at"])

    def _receive(self, attempt_id, sid, word):
        context = SimpleNamespace(
            node=self.web, together=recording.Together(self.web), request_id="r"
        )
        request = SimpleNamespace(context=context)
        webhooks._record(request, attempt_id, Callback(sid, word))

    @can_happen(1, n=some, word=words)
    def call_back_to_another_attempt(self, n, word):
        if not self._misdirected():
            return
        call, attempt_id = _pick(self._misdirected(), n)
        before = self.seen.attempts[attempt_id]
        self._receive(attempt_id, call.sid, word)
        assert look(self.reader).attempts[attempt_id] == before

    def _misdirected(self):
        """Callbacks that must move nothing: the other attempt has its own id, or is over."""
        found = self.seen.attempts.values()
        return [
            (call, attempt["id"])
            for call in self.ledger.calls
            for attempt in found
            if attempt["id"] != call.attempt_id
            and (
                attempt["carrier_call_id"]
                or (attempt["ended_at"] and not attempt["decision_stands"])
            )
        ]

    @can_happen(4, who=workers, account=accounts, mode=modes, crash=rarely)
    def look_up(self, who, account, mode, crash):
        self.ledger.look_ups = mode
        with self._maybe_crash(crash):
            unknowns.look_up_due(self.workers[who].node, self.ledger, self.accounts[account])

    @can_happen(2, who=workers, account=accounts, mode=modes, crash=rarely)
    def end(self, who, account, mode, crash):
        """What a worker does besides: end the calls of runs that are over, at the carrier too."""
        self.ledger.look_ups = mode
        node, of = self.workers[who].node, self.accounts[account]
        with self._maybe_crash(crash):
            runs.end_queued(node, of)
            hanging_up.hang_up_due(node, self.ledger, of)

    # What people do.

    def _who(self, account):
        return Caller(account, UUID(int=7), "operator", "r")

    def _run(self, n):
        run = self.runs[n % len(self.runs)]
        return self.seen.runs[run]["account_id"], run

    @can_happen(
        1,
        n=some,
        verb=st.sampled_from(["pause", "resume", "resume", "resume", "cancel"]),
        hang_up=st.booleans(),
    )
    def operate(self, n, verb, hang_up):
        account, run = self._run(n)
        more = {"hang_up": hang_up} if verb == "cancel" else {}
        with suppress(Refused):
            getattr(runs, verb)(self.web, account, run, self._who(account), **more)
            seen = look(self.reader)
            assert (seen.runs[run]["status"] == "paused") == (verb == "pause") or verb == "cancel"
            assert verb != "cancel" or not seen.still_dials(run)

    @can_happen(
        3,
        n=some,
        decision=st.sampled_from([*Decision, Decision.REDIAL]),
        outcome=st.sampled_from(list(Outcome)),
        force=st.sampled_from([True, True, False]),
        all_=rarely,
        crash=rarely,
    )
    def resolve(self, n, decision, outcome, force, all_, crash):
        if not self._unknowns():
            return
        call = _pick(self._unknowns(), n)
        which = [call["account_id"], call["run_id"]] + ([] if all_ else [call["id"]])
        given = {
            "outcome": outcome if decision is Decision.PLACED else None,
            "note": None,
            "force": force,
            "who": self._who(call["account_id"]),
        }
        with suppress(Refused), self._maybe_crash(crash):
            decide = unknowns.resolve_all if all_ else unknowns.resolve
            decide(self.web, *which, decision, **given)
            assert all_ or look(self.reader).calls[call["id"]]["state"] != "unknown"

    def _unknowns(self):
        return [call for call in self.seen.calls.values() if call["state"] == "unknown"]

    # What the reconciler does.

    @can_happen(
        4,
        what=st.sampled_from(["tick"] * 6 + ["on demand", "depose", "depose", *SWEEPS]),
        account=accounts,
    )
    def reconcile(self, what, account):
        if what == "tick":
            self.reconciler._tick(self.epochs[-1])
        elif what == "on demand":
            with suppress(Refused):
                on_demand.reconcile(self.web, self.accounts[account])
        elif what == "depose":
            self._depose()
        else:
            self._sweep(what)

    def _sweep(self, sweep):
        report = sweeps.run_once(self.reconciler._node, sweep, Scope(epoch=self.epochs[-1]))
        if report.rows == 0 or sweep.name.startswith("ring_"):
            assert _same(look(self.reader), self.seen), "a sweep with nothing to do wrote something"

    def _depose(self):
        """A leader is frozen, another one is elected, and the first one wakes up."""
        self.epochs.append(self.reconciler._become_leader())
        for sweep in SWEEPS:
            with suppress(Deposed):
                sweeps.run_once(self.reconciler._node, sweep, Scope(epoch=self.epochs[-2]))
        assert _same(look(self.reader), self.seen), "a deposed leader wrote something"

    @can_happen(5, seconds=leaps)
    def time_passes(self, seconds):
        let_time_pass(self.reader, seconds)
        for call in self.ledger.calls:
            call.created_at -= timedelta(seconds=seconds)
        for worker in self.workers:
            worker.grow_older(seconds)

    def _stop_the_clock(self):
        """Take back what the step itself took: on a busy machine it would else decide things."""
        now = time.monotonic()
        self.time_passes(self.clock - now)
        self.clock = now

    @rule(step=st.deferred(lambda: st.one_of(STEPS)))
    def happens(self, step):
        verb, known = step
        getattr(self, verb)(**known)

    # What must hold.

    @invariant()
    def every_promise_is_kept(self):
        if self.seen is None:
            return
        self._stop_the_clock()
        seen = look(self.reader)
        check(self.seen, seen, self.ledger)
        check_ends(seen, self.crashed)
        self.seen = seen

    def teardown(self):
        if sys.exc_info()[0] is None and self.seen:
            self._get_well()
            self._everything_has_found_its_end()
            type(self).drained += 1

    def _get_well(self):
        """Everybody does their work again, until nothing is left to do."""
        self.crashed = set(self.runs)
        for worker in self.workers:
            worker.start()
        for n in range(len(self.runs)):
            self.operate(n, "resume", hang_up=False)
        self.epochs.append(self.reconciler._become_leader())
        for _ in range(ROUNDS):
            self._one_good_round()
            self.every_promise_is_kept()
            if self._is_quiet():
                return
            self.time_passes(ROUND)

    def _one_good_round(self):
        for account in (0, 1):
            self.reconcile("tick", account)
            self.look_up(0, account, "find", crash=False)
            self.end(0, account, "find", crash=False)
            self.every_promise_is_kept()
            self.dial(0, account, 3, Fate.ACCEPTED)
            for call in self.ledger.calls:
                call.say(Progress.ANSWERED)
                if not any(word.is_final for word in call.heard):
                    self._deliver(call, call.words[-1])

    def _is_quiet(self):
        return all(run["ended_at"] for run in self.seen.runs.values()) and not any(
            call["state"] == "live" for call in self.seen.calls.values()
        )

    def _everything_has_found_its_end(self):
        rang = {call.attempt_id for call in self.ledger.calls}
        for run in self.seen.runs.values():
            assert run["ended_at"], f"a {run['status']} run never ends"
        for call in self.seen.calls.values():
            if call["outcome"] is None:
                last = self.seen.counted(call["id"])[-1]
                assert call["state"] == last["state"] == "unknown"
                assert last["error"]
                assert last["id"] not in rang


def _without_chance(statement):
    assert "30 * random()" in statement.text
    return text(statement.text.replace("30 * random()", "15"))


def _pick(items, n):
    return items[n % len(items)]


def _same(one, other):
    return replace(one, now=other.now) == other


@pytest.fixture
def model(settings, monkeypatch):
    logs.set_up(replace(settings, log_level="CRITICAL"), "dramatiq_worker")
    engine = db.connect(settings, source="api")

    @event.listens_for(engine, "connect")
    def _(connection, _record):
        with connection.cursor() as cursor:  # nothing here is about a database that crashes
            cursor.execute("SET synchronous_commit = off")
        connection.commit()

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as reader:
        monkeypatch.setattr(Protocol, "node", Process(settings, engine, MuteBell(), "api"))
        monkeypatch.setattr(Protocol, "reader", reader)
        monkeypatch.setattr(factories, "uuid7", Protocol.next_id)
        monkeypatch.setattr(claims, "uuid7s", Protocol.next_ids)
        monkeypatch.setattr(claims, "_ASIDE", _without_chance(claims._ASIDE))
        yield Protocol
    engine.dispose()


@pytest.mark.timeout(0 if LONG else 300)  # on a machine with much else to do
def test_whatever_happens_every_lead_is_called_as_often_as_meant_and_finds_its_end(model):
    budget = settings(
        max_examples=LONG or 30,
        stateful_step_count=60 if LONG else 50,
        derandomize=not LONG,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=(Phase.generate, *([Phase.shrink] if LONG else [])),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(model, settings=budget)
    assert model.drained
