"""The real processes, for the tests of this tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from processes import Stack, World


@pytest.fixture
def stack(database_url: str, redis_url: str) -> Iterator[Stack]:
    """Processes that the test starts one by one."""
    built = Stack(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "PUBLIC_BASE_URL": "http://127.0.0.1:8000",
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": "test-token-of-the-emulator",
        }
    )
    yield built
    built.stop()


@pytest.fixture
def world(stack: Stack, tmp_path) -> World:
    """A carrier with its ledger, a web process, and short leases; workers start as needed."""
    return World(stack, tmp_path / "ledger.ndjson")
