"""Pure rules about time: pace, retries, look-ups, back-off. No I/O, no clock of their own."""

from __future__ import annotations

from datetime import datetime, timedelta

LOOK_AHEAD = timedelta(milliseconds=200)
"""A call may be claimed this long before its send time; its sender waits the rest."""

PACE_SLACK = timedelta(milliseconds=100)
"""A claim that comes late may catch up this much, so that pick-up time costs no pace."""

PACE_PAUSE = timedelta(seconds=60)
RETRY_SOON = 5.0
"""Seconds: a worker's own timer rings for what falls due sooner; anything later is the leader's."""

LOOKUP_STEPS = (
    (timedelta(seconds=10), timedelta(seconds=10)),
    (timedelta(seconds=60), timedelta(seconds=50)),
    (timedelta(hours=1), timedelta(minutes=5)),
    (timedelta(hours=25), timedelta(hours=1)),
    (timedelta(days=30), timedelta(days=1)),
)
"""Up to this age of an unknown, its next look-up comes that much later."""

LOOKUP_AGAIN = timedelta(seconds=60)
"""So much later a look-up comes again: of a placed call, and any that got no answer."""
PLACED_LOOKUP_SLACK = timedelta(seconds=15)
SILENT_AFTER = timedelta(minutes=10)
"""A placed call whose look-ups keep failing this long is no longer known."""

PHONE_BACK_AFTER = timedelta(hours=24)
"""An accepted create can wait in the carrier's own queue this long and ring then."""

MIN_EMPTY_LOOKUPS = 3
HANG_UP_EVERY = timedelta(seconds=30)
MAX_HANG_UPS = 10
BREAKER_TRIAL_AFTER = timedelta(seconds=60)
BREAKER_AMBIGUOUS = 10
"""This many ambiguous or never-sent answers in a row open the breaker."""
NEVER_SENT_DUE = timedelta(seconds=5)
RELEASE_DUE = timedelta(seconds=1)
MAX_BACKOFF = 60.0


def send_times(
    now: datetime,
    paces: list[tuple[datetime | None, float]],
    most: int,
) -> tuple[list[datetime], list[datetime | None]]:
    """Plan send times that keep every pace at once (GCRA, one call at a time).

    Args:
        now: the database's clock.
        paces: for each limit its next free time (None: never used) and its calls per second.
        most: how many are wanted.

    Returns:
        The send times within LOOK_AHEAD, and each pace's next free time after them.
    """
    nexts = [start or now for start, _ in paces]
    steps = [timedelta(seconds=1 / rate) for _, rate in paces]
    earliest, latest = now - PACE_SLACK, now + LOOK_AHEAD
    times: list[datetime] = []
    while len(times) < most:
        at = max(earliest, *nexts)
        if at > latest:
            break
        times.append(max(at, now))
        nexts = [at + step for step in steps]
    return times, [*nexts] if times else [start for start, _ in paces]


def next_lookup(unknown_at: datetime, now: datetime) -> datetime | None:
    """Say when an unknown is looked up again; None when it is older than 30 days."""
    for age, step in LOOKUP_STEPS:
        if now - unknown_at < age:
            return now + step if age > LOOKUP_STEPS[1][0] else unknown_at + age
    return None


def placed_lookup(placed_at: datetime, ring_timeout: int) -> datetime:
    """Say when a placed call that nobody spoke of again is looked up first."""
    return placed_at + timedelta(seconds=ring_timeout) + PLACED_LOOKUP_SLACK


def next_backoff(previous: float, retry_after: float | None) -> float:
    """Seconds to keep off the carrier after it asked us to slow down."""
    if retry_after is not None:
        return min(max(retry_after, 0.0), 3600.0)
    return min(max(previous * 2, 1.0), MAX_BACKOFF)
