"""Outbound places batches of phone calls, each lead exactly as often as it is meant to be called.

A user interface posts a *run*, a batch of leads, over HTTP (`api`). Workers (`worker`, `actors`,
`dialer`) place the calls through a telephony carrier (`carriers`); its callbacks settle them
(`settling`); one elected process (`reconciler`) repairs whatever a crash left behind.

Five invariants hold it together, and the tests are there to prove them:

1. PostgreSQL is the truth. A message is a doorbell: "account A may have work". Redis may be
   emptied, restarted or cut off at any moment.
2. Intent before effect. The attempt's row is committed, under unique constraints, before the
   carrier is asked, and no transaction is open while it is asked. Nothing is claimed that is not
   sent at once.
3. Uncertain is a state, not a guess. If nobody knows whether the carrier took the request, the
   attempt is `unknown`. The carrier's word or a recorded decision leaves it; nothing else.
4. Fences guard intentions, never evidence. Claim, release and sweep are guarded by fence and
   state; evidence is accepted from anyone, also from a worker that lost its lease.
5. The reconciler is enough for every crash, and is not needed for the happy path except as its
   clock. It only uses the happy path's verbs.

Where to read on: `states` for what may happen to an attempt, `claims` for who may dial,
`settling` for what the carrier's word does, `reconciler.table` for what is repaired, and
docs/protocol.md for why each odd rule is there.
"""

__version__ = "0.1.0"
