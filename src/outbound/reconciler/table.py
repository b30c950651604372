# ruff: noqa: S608 - statements are put together from our own words alone
"""Every failure that a crash can leave, the sweep that repairs it, and the test that shows it.

| failure | sweep | its test starts with |
|---|---|---|
| a worker died while sending | stale_claims | a_claim_whose_lease_ran_out |
| an unknown whose author said redial | redial_unknowns | an_unknown_is_redialled |
| an unknown holds its phone for ever | give_phones_back | an_unknown_gives_its_phone_back |
| a run's start time has come | start_scheduled | a_scheduled_run_becomes_pending |
| the last call ended, the run did not | end_runs | a_run_whose_last_call_ended |
| a ring got lost, or time held work back | ring_due | due_work_that_nobody_claims |
| cancelled or expired, and still queued | ring_ending | queued_calls_of_a_cancelled |
| an unknown, or a call fell silent | ring_look_ups | what_is_due_for_look_up |
| a call to be ended goes on | ring_hang_ups | hang_ups_that_are_due |
| old idempotency keys pile up | purge_keys | keys_older_than_a_day |
"""

from __future__ import annotations

from outbound import doorbell, ending, hanging_up, policy, unknowns
from outbound.reconciler import sweeps
from outbound.reconciler.sweeps import Sweep
from outbound.states import Kind

_SCOPE = "(CAST(:account AS uuid) IS NULL OR {}.account_id = CAST(:account AS uuid))"
_A, _R, _P, _K, _S = (_SCOPE.format(name) for name in "arpks")

_LOCK_ATTEMPTS = "FOR NO KEY UPDATE OF a SKIP LOCKED"

SWEEPS = (
    Sweep(
        "stale_claims",
        "a worker died while it was sending, or could not write the answer in time",
        f"""SELECT a.id FROM attempts a
             WHERE {_A} AND a.ended_at IS NULL AND a.state = 'sending'
               AND a.lease_until < clock_timestamp()""",
        sweeps.evidence_sweep(Kind.LEASE_RAN_OUT, error="the worker died or lost its database"),
        lock=_LOCK_ATTEMPTS,
    ),
    Sweep(
        "redial_unknowns",
        "an unknown that the run's author decided beforehand to dial again",
        f"""SELECT a.id, a.run_id FROM runs r
              JOIN attempts a ON a.account_id = r.account_id AND a.run_id = r.id
              JOIN calls c ON c.id = a.call_id
             WHERE {_R} AND a.ended_at IS NULL AND {ending.MAY_BE_REDIALLED}
               AND a.empty_lookups >= {policy.MIN_EMPTY_LOOKUPS}
               AND a.claimed_at + make_interval(secs => r.on_unknown_after)
                   <= clock_timestamp()""",
        sweeps.redial,
    ),
    Sweep(
        "give_phones_back",
        "an unknown keeps others from calling its phone for longer than it can still ring",
        f"""SELECT a.id FROM attempts a
             WHERE {_A} AND a.ended_at IS NULL AND a.state = 'unknown' AND a.phone_held
               AND a.unknown_at <= clock_timestamp()
                   - make_interval(secs => {policy.PHONE_BACK_AFTER.total_seconds():.0f})""",
        sweeps.evidence_sweep(Kind.PHONE_BACK),
        lock=_LOCK_ATTEMPTS,
    ),
    Sweep(
        "start_scheduled",
        "a run's start time has come",
        f"""SELECT r.id FROM runs r
             WHERE {_R} AND r.ended_at IS NULL AND r.status = 'scheduled'
               AND r.start_at <= clock_timestamp()""",
        sweeps.start_scheduled,
    ),
    Sweep(
        "end_runs",
        "a run's last call is over, but a crash came before its end was written",
        f"SELECT r.id FROM runs r WHERE {_R} AND {ending.IS_OVER}",
        sweeps.end_runs,
        lock="FOR NO KEY UPDATE OF r SKIP LOCKED",
    ),
    Sweep(
        "ring_due",
        "work is due and nobody has claimed for a second: a ring got lost, or time held it back",
        f"""SELECT p.account_id, count(*)::int AS due FROM account_pace p
              JOIN runs r ON r.account_id = p.account_id
              CROSS JOIN LATERAL (
                SELECT FROM calls c WHERE c.run_id = r.id AND c.is_queued
                   AND c.next_attempt_at <= clock_timestamp() LIMIT 32) due
             WHERE {_P} AND {ending.STILL_DIALS} AND r.status IN ('pending', 'running')
               AND NOT p.stopped
               AND (p.not_before IS NULL OR p.not_before <= clock_timestamp())
               AND (p.next_send_at IS NULL OR p.next_send_at <= clock_timestamp())
               AND (r.next_send_at IS NULL OR r.next_send_at <= clock_timestamp())
               AND (p.last_claim_at IS NULL
                    OR p.last_claim_at < clock_timestamp() - interval '1 second')
               AND NOT EXISTS (SELECT FROM breakers b WHERE b.account_id = p.account_id
                                  AND b.next_trial_at > clock_timestamp())
               AND (SELECT count(*) FROM attempts a
                     WHERE a.account_id = p.account_id AND a.ended_at IS NULL
                       AND (a.state <> 'unknown' OR clock_timestamp() < a.occupies_until)
                   ) < p.max_live_calls
               AND (SELECT count(*) FROM attempts a
                     WHERE a.account_id = p.account_id AND a.run_id = r.id
                       AND a.ended_at IS NULL
                       AND (a.state <> 'unknown' OR clock_timestamp() < a.occupies_until)
                   ) < r.concurrency
             GROUP BY p.account_id, p.last_claim_at ORDER BY p.last_claim_at NULLS FIRST""",
        sweeps.ring(doorbell.DIAL),
        repeats=False,
    ),
    Sweep(
        "ring_ending",
        "a cancelled or expired run still has queued calls",
        f"""SELECT DISTINCT r.account_id FROM runs r
             WHERE {_R} AND r.ended_at IS NULL
               AND (r.cancel_requested OR r.expires_at <= clock_timestamp())
               AND EXISTS (SELECT FROM calls c WHERE c.run_id = r.id AND c.is_queued)""",
        sweeps.ring(doorbell.DIAL),
        repeats=False,
    ),
    Sweep(
        "ring_look_ups",
        "an unknown, or a placed call that the carrier fell silent about, is due for look-up",
        f"SELECT DISTINCT a.account_id FROM attempts a WHERE {unknowns.IS_DUE} AND {_A}",
        sweeps.ring(doorbell.RESOLVE),
        repeats=False,
    ),
    Sweep(
        "ring_hang_ups",
        "a call that is to be ended is still not over",
        f"""SELECT DISTINCT x.account_id FROM attempts x
             WHERE x.id IN ({hanging_up.DUE_HANG_UPS.replace(":most", str(policy.MAX_HANG_UPS))}
                            AND {_A})
            UNION
            SELECT s.account_id FROM stray_carrier_calls s
             WHERE {_S} AND s.ended_at IS NULL AND s.hang_ups < {policy.MAX_HANG_UPS}
               AND s.next_hang_up_at <= clock_timestamp()""",
        sweeps.ring(doorbell.HANG_UP),
        repeats=False,
    ),
    Sweep(
        "purge_keys",
        "idempotency keys older than a day pile up",
        f"""SELECT k.account_id, k.key FROM idempotency_keys k
             WHERE {_K} AND k.created_at < clock_timestamp() - interval '24 hours'""",
        sweeps.purge_keys,
    ),
)
"""In the order in which they run: what settles calls comes before what ends runs."""
