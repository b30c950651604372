"""Pace, look-ups and back-off are pure arithmetic."""

from bisect import bisect
from datetime import UTC, datetime, timedelta

import pytest

from outbound import policy

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def drain(rate: float, seconds: float, every: float) -> list[datetime]:
    """Send times of somebody who claims as much as he may, at that interval."""
    sent, free, now = [], None, NOW
    while now < NOW + timedelta(seconds=seconds):
        times, (free,) = policy.send_times(now, [(free, rate)], 1000)
        sent += times
        now += timedelta(seconds=every)
    return sent


@pytest.mark.parametrize("rate", [0.5, 5.0, 50.0])
@pytest.mark.parametrize("every", [0.01, 0.05, 0.19])
def test_any_ten_seconds_keep_the_pace_and_use_it(rate, every):
    sent = drain(rate, 60, every)
    most = max(bisect(sent, at + timedelta(seconds=10)) - i for i, at in enumerate(sent))
    assert most <= 10 * rate + max(1, 0.2 * rate)
    assert len(sent) >= 0.95 * 60 * rate


def test_both_paces_hold_at_once():
    times, (account, run) = policy.send_times(NOW, [(None, 100.0), (None, 10.0)], 50)
    assert len(times) == 3
    assert account < run


def test_nothing_is_planned_beyond_the_look_ahead():
    later = NOW + policy.LOOK_AHEAD + timedelta(milliseconds=1)
    assert policy.send_times(NOW, [(later, 10.0)], 5) == ([], [later])


def test_look_ups_come_at_once_then_ever_more_seldom_and_stop_after_thirty_days():
    asked, at = [], NOW
    while at is not None:
        asked.append((at - NOW).total_seconds())
        at = policy.next_lookup(NOW, at)
    assert asked[:4] == [0, 10, 60, 360]
    assert sum(3600 <= second < 25 * 3600 for second in asked) in (23, 24, 25)
    assert asked[-1] <= 31 * 86400


def test_back_off_doubles_to_a_minute_unless_the_carrier_names_a_time():
    waits = [1.0]
    while len(waits) < 8:
        waits.append(policy.next_backoff(waits[-1], None))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert policy.next_backoff(0, None) == 1
    assert policy.next_backoff(32, 7.0) == 7
