# ruff: noqa: S608 - statements are put together from our own words alone
"""How queued calls and whole runs end: what several verbs must judge alike, said once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from outbound.states import Outcome

STILL_DIALS = """
    r.ended_at IS NULL AND NOT r.cancel_requested
    AND (r.expires_at IS NULL OR r.expires_at > clock_timestamp())"""
"""Of a run `r`: it may still queue calls again."""

MAY_BE_REDIALLED = f"""
    r.on_unknown = 'redial' AND a.state = 'unknown' AND c.state = 'unknown'
    AND (a.carrier_call_id || '') IS NULL AND a.heard_at IS NULL AND c.attempts < r.max_attempts
    AND NOT c.cancel_requested AND {STILL_DIALS}"""
"""Of run `r`, attempt `a`, call `c`: its author's redial may come, if time and look-ups bear it.

Written so, no plan looks for NULL in the index of the carrier's ids: all attempts that were ever
refused are there, and more each day.
"""

IS_OVER = f"""
    r.ended_at IS NULL
    AND (r.status IN ('pending', 'running') OR r.cancel_requested
         OR (r.status = 'paused' AND r.expiry_ended_calls))
    AND NOT EXISTS (SELECT FROM calls c WHERE c.run_id = r.id AND c.is_queued)
    AND NOT EXISTS (
        SELECT FROM attempts a JOIN calls c ON c.id = a.call_id
         WHERE a.account_id = r.account_id AND a.run_id = r.id AND a.ended_at IS NULL
           AND (c.state IN ('dialing', 'live') OR ({MAY_BE_REDIALLED})))"""
"""Of a run `r`: nothing of it can move any more but by a decision or the carrier's late word.

A paused run ends only cancelled or expired: else a decision would undo the pause.
"""

END_PICKED = """
    ended AS MATERIALIZED (
        SELECT p.id, coalesce(last.outcome, 'cancelled') AS outcome FROM picked p
          LEFT JOIN LATERAL (
            SELECT a.outcome FROM attempts a
             WHERE a.call_id = p.id AND a.state <> 'released'
             ORDER BY a.number DESC LIMIT 1) last ON true),
    over AS (
        UPDATE calls c
           SET outcome = ended.outcome, waiting_for = NULL, last_error = :why,
               state = CASE ended.outcome WHEN 'failed' THEN 'failed'
                            WHEN 'cancelled' THEN 'cancelled' ELSE 'completed' END
          FROM ended WHERE c.id = ended.id AND c.id = ANY (ARRAY(SELECT id FROM ended))
        RETURNING c.id, c.outcome)"""
"""Ends the queued calls in `picked`, which are locked: each keeps its last outcome, or is
`cancelled` if it had none."""


def deltas(outcomes: Mapping[str, int]) -> Counter[str]:
    """Say what queued calls that ended so change in their run's counters."""
    delta: Counter[str] = Counter(queued=-sum(outcomes.values()))
    for outcome, calls in outcomes.items():
        delta[Outcome(outcome).call_state.counter] += calls
        delta[Outcome(outcome).counter] += calls
    return delta
