"""Accounts, their keys and limits."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class Caller:
    """Who asks, as their API key says."""

    account_id: UUID
    key_id: UUID
    role: str
    request_id: str
