"""What matters, taken out: for each guard of the protocol, a named test fails without it.

    make mutants

Works on a copy of the source in a temporary directory. Exits 1 if a mutant survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST = "migrations/versions/0001_the_first_schema.py"


@dataclass(frozen=True)
class Mutant:
    """One guard, the text that it is, what is left without it, and the test that must fail."""

    guard: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "SKIP LOCKED in the claim",
        "claims.py",
        "LIMIT :scan FOR UPDATE SKIP LOCKED",
        "LIMIT :scan FOR UPDATE",
        "test_claims.py::test_calls_that_another_claim_has_locked",
    ),
    Mutant(
        "the second look for who came while a thread was at the account",
        "dialer.py",
        "self._turns.leave(account_id) or goes_on",
        "self._turns.leave(account_id) and goes_on",
        "test_dialer.py::test_a_message_that_comes_while",
    ),
    Mutant(
        "the account's pace lock",
        "pace.py",
        "\n       FOR NO KEY UPDATE\n",
        "\n",
        "test_claims.py::test_ten_parallel_claimers",
    ),
    Mutant(
        "the fence of a release",
        "states.py",
        " or attempt.fence != evidence.fence",
        "",
        "test_settling.py::test_only_the_holder_of_the_fence",
    ),
    Mutant(
        "the lease in the sweep",
        "states.py",
        " or attempt.lease_until >= now",
        "",
        "test_settling.py::test_a_lease_that_has_not_run_out",
    ),
    Mutant(
        "the lease check before sending",
        "dialer.py",
        "if call.lease_ends - clock.boot_seconds() < needed:",
        "if False:",
        "test_dialer.py::test_a_lease_that_is_too_short",
    ),
    Mutant(
        "the completion's lock",
        "runs.py",
        'connection.execute(settling.LOCK_RUNS, {"ids": ids})\n    ended =',
        "ended =",
        "test_settling.py::test_a_run_is_not_completed_while",
    ),
    Mutant(
        "advance in a transaction of its own",
        "recording.py",
        "runs.advance(node, settled.touched)",
        "pass",
        "test_settling.py::test_the_last_two_calls",
    ),
    Mutant(
        "a final word absorbs",
        "states.py",
        "if over and not attempt.decision_stands:",
        "if False:",
        "test_settling.py::test_a_final_word_absorbs",
    ),
    Mutant(
        "a later attempt keeps its call",
        "states.py",
        "if any(other.number > moved.number for other in counted):",
        "if False:",
        "unit/test_states.py::test_news_of_an_old_attempt",
    ),
    Mutant(
        "an ambiguous answer is unknown",
        "recorder.py",
        "Verdict.AMBIGUOUS: Kind.AMBIGUOUS",
        "Verdict.AMBIGUOUS: Kind.NOT_PROCESSED",
        "test_dialer.py::test_each_answer",
    ),
    Mutant(
        "the signature check",
        "carriers/twilio.py",
        'raise ForgedCallback("the callback\'s signature is missing or wrong")',
        "pass",
        "test_webhooks.py::test_a_forged_callback",
    ),
    Mutant(
        "the epoch",
        "reconciler/sweeps.py",
        "if scope.epoch is not None and",
        "if False and",
        "test_sweeps.py::test_a_deposed_leader",
    ),
    Mutant(
        "the sweep lock",
        "reconciler/sweeps.py",
        "SELECT pg_advisory_xact_lock(hashtextextended('outbound.sweep', 0))",
        "SELECT 1",
        "test_sweeps.py::test_nobody_becomes_leader",
    ),
    Mutant(
        "one held phone",
        FIRST,
        '"attempts_one_held_phone",\n        "attempts",\n        ["account_id", "phone"],',
        '"attempts_one_held_phone",\n        "attempts",\n        ["account_id", "phone", "id"],',
        "test_claims.py::test_one_phone_is_held",
    ),
    Mutant(
        "one number of a call",
        FIRST,
        'sa.UniqueConstraint("call_id", "number", name',
        'sa.UniqueConstraint("id", name',
        "test_claims.py::test_one_number_of_a_call",
    ),
    Mutant(
        "one attempt of a carrier's call",
        FIRST,
        '"carrier", "carrier_call_id", name=op.f("attempts_carrier_carrier_call_id_key")',
        '"id", name=op.f("attempts_carrier_carrier_call_id_key")',
        "test_settling.py::test_a_carriers_call_belongs_to_one_attempt",
    ),
    Mutant(
        "each lead once in a run",
        FIRST,
        'sa.UniqueConstraint("run_id", "lead_id", name',
        'sa.UniqueConstraint("id", name',
        "test_claims.py::test_a_run_has_each_lead",
    ),
    Mutant(
        "each phone once in a run",
        FIRST,
        'sa.UniqueConstraint("run_id", "phone", name',
        'sa.UniqueConstraint("id", name',
        "test_claims.py::test_a_run_has_each_lead",
    ),
    Mutant(
        "one stray a carrier's call",
        FIRST,
        '"carrier",\n            "carrier_call_id",\n            name=op.f("stray',
        '"id",\n            name=op.f("stray',
        "test_settling.py::test_another_carrier_id",
    ),
    Mutant(
        "one answer a key",
        "idempotency.py",
        'lock(connection, f"idempotency:{account_id}:{key}")',
        "pass",
        "test_api.py::TestRuns::test_one_key_with_many_bodies",
    ),
    Mutant(
        "the twin's lock",
        "intake.py",
        "idempotency.lock(connection, f\"twin:{caller.account_id}:{columns['body_hash'].hex()}\")",
        "pass",
        "test_api.py::TestRuns::test_twenty_parallel_twins",
    ),
    Mutant(
        "reconcile once a minute",
        "reconciler/on_demand.py",
        "OR reconciled_at <= clock_timestamp()",
        "OR reconciled_at <= 'infinity'::timestamptz +",
        "test_sweeps.py::TestOnDemand::test_once_a_minute",
    ),
    Mutant(
        "the suppression in the claim",
        "claims.py",
        "SELECT *, NOT suppressed AND NOT held",
        "SELECT *, NOT held",
        "test_suppressions.py::test_a_suppressed_call_ends_cancelled",
    ),
    Mutant(
        "the pace lock of a suppression",
        "suppressions.py",
        "        pace.lock(connection, account_id)\n",
        "",
        "test_suppressions.py::TestRace",
    ),
    Mutant(
        "the run's lock of a call's cancel",
        "cancelling.py",
        '    connection.execute(settling.LOCK_RUNS, {"ids": [run_id]})\n',
        "",
        "test_cancelling.py::TestRace",
    ),
    Mutant(
        "a cancelled call is never queued again",
        "alike.py",
        " or row.call_cancelled",
        "",
        "test_cancelling.py::test_a_word_on_an_old_attempt",
    ),
    Mutant(
        "a purged call is never queued again",
        "alike.py",
        " or row.purged",
        "",
        "test_purging.py::test_no_decision_queues_it_again",
    ),
    Mutant(
        "an attempt of which two things are said is judged apart",
        "settling.py",
        "or (again and item.attempt_id in again)",
        "",
        "test_alike.py::test_what_is_said_twice",
    ),
    Mutant(
        "a plan is made for a big table, also while it is empty",
        "prepared.py",
        "SET enable_seqscan = off",
        "SET enable_seqscan = on",
        "test_prepared.py::TestYoung",
    ),
    Mutant(
        "of an account's messages the last alone is answered where others wait",
        "doorbell.py",
        "redis.call('DECR', KEYS[1]) > 0",
        "redis.call('DECR', KEYS[1]) > 99",
        "test_doorbell.py::test_where_others_wait",
    ),
    Mutant(
        "a call that was dialled before is judged apart",
        "alike.py",
        "c.last_number <> 1 AS by_itself",
        "false AS by_itself",
        "test_alike.py::test_those_that_were_dialled_before",
    ),
    Mutant(
        "an account's own runs only",
        "progress.py",
        " WHERE r.account_id = who.key_account",
        "",
        "test_api.py::TestWhoMayAsk::test_another_accounts_object",
    ),
    Mutant(
        "a revoked key is none",
        "accounts.py",
        "WHERE hash = :hash AND revoked_at IS NULL",
        "WHERE hash = :hash",
        "security/test_every_route.py::401",
    ),
    Mutant(
        "a session ends with its key",
        "sessions.py",
        " AND k.revoked_at IS NULL",
        "",
        "security/test_every_route.py::401",
    ),
    Mutant(
        "a session ends with its time",
        "sessions.py",
        " AND s.expires_at > clock_timestamp()",
        "",
        "security/test_every_route.py::401",
    ),
    Mutant(
        "where nothing is due from the head on, the whole queue is read",
        "claims.py",
        "         UNION ALL\n        ({_QUEUED} {_IN_ORDER})) c LIMIT 1",
        "         UNION ALL\n        ({_QUEUED} AND r.queue_head_at IS NULL {_IN_ORDER})) c LIMIT 1",
        "test_claims.py::TestHead",
    ),
    Mutant(
        "once a second the whole queue is read",
        "claims.py",
        "            AND date_trunc('second', clock.now) = date_trunc('second', r.last_served_at)\n",
        "",
        "test_claims.py::TestHead",
    ),
    Mutant(
        "a claim counts from the first that is live",
        "claims.py",
        'min(limits["first_fence"] or fence, fence)',
        "fence",
        "test_claims.py::TestWhatIsLive::test_a_long_call",
    ),
    Mutant(
        "a claim counts from no later fence than its own",
        "claims.py",
        'min(limits["first_fence"] or fence, fence)',
        'limits["first_fence"] or fence',
        "test_claims.py::TestWhatIsLive::test_when_fences_begin_anew",
    ),
    Mutant(
        "a claim counts what was unknown apart",
        "claims.py",
        "AND (u.is_placed OR clock.now < u.occupies_until)",
        "AND false",
        "test_claims.py::TestWhatIsLive::test_an_unknown_whose_run_has_ended",
    ),
    Mutant(
        "a claim counts what was unknown and rings",
        "claims.py",
        "AND (u.is_placed OR clock.now < u.occupies_until)",
        "AND NOT u.is_placed AND clock.now < u.occupies_until",
        "test_claims.py::TestWhatIsLive::test_a_call_that_was_held_to_be_over",
    ),
)


def survives(mutant: Mutant) -> bool:
    """Run the mutant's test against a copy of the source without the guard."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        shutil.copytree(ROOT / "src", Path(directory) / "src")
        path = Path(directory) / "src" / "outbound" / mutant.file
        text = path.read_text()
        if mutant.old not in text:
            raise SystemExit(f"{mutant.guard}: its text is no longer in {mutant.file}")
        path.write_text(text.replace(mutant.old, mutant.new, 1))
        file, _, name = mutant.test.partition("::")
        where = f"tests/{file}" if "/" in file else f"tests/integration/{file}"
        chosen = ["-k", name.replace("::", " and ")] if name else []
        command = [sys.executable, "-m", "pytest", "-x", "-q", where, *chosen]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(Path(directory) / "src")},
        )
    if done.returncode == 5:
        raise SystemExit(f"{mutant.guard}: no such test: {mutant.test}")
    return done.returncode == 0


def main() -> None:
    """Try each mutant, or those whose guard contains the words given."""
    words = " ".join(sys.argv[1:])
    left = []
    for mutant in MUTANTS:
        if words in mutant.guard:
            alive = survives(mutant)
            left += [mutant] if alive else []
            sys.stdout.write(
                f"{'SURVIVES' if alive else 'killed':<9} {mutant.guard}: {mutant.test}\n"
            )
            sys.stdout.flush()
    raise SystemExit(1 if left else 0)


if __name__ == "__main__":
    main()
