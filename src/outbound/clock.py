"""The clock by which a lease is trusted."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Seconds since boot; unlike the monotonic clock it also counts while the machine sleeps."""
    return time.clock_gettime(_CLOCK)
