"""Examples of bodies that are too long to stand beside what they are examples of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from outbound.api import openapi_answers as answers

NEW_RUNS: dict[str, Any] = {
    "smallest": {
        "leads": [{"lead_id": "crm-17", "phone": "+972502345678"}],
        "twiml": "<Response><Say>Hello</Say></Response>",
    },
    "full": {
        "name": "November renewals",
        "leads": [
            {
                "lead_id": "crm-17",
                "phone": "+972502345678",
                "variables": {"name": "Dana", "amount": 12.5},
            },
            {"lead_id": "crm-18", "phone": "+12025550101"},
        ],
        "concurrency": 20,
        "calls_per_second": 5.0,
        "caller_id": "+97231234567",
        "answer_url": "https://crm.example.com/twiml",
        "twiml": None,
        "ring_timeout": 30,
        "max_call_duration": 3600,
        "retry": {"max_attempts": 3, "delay": 600, "on": ["busy", "no_answer"]},
        "on_unknown": {"action": "redial", "after": 900},
        "on_duplicate": "skip",
        "allow_duplicate": False,
        "start_at": None,
        "expires_at": None,
        "metadata": {"owner": "42"},
    },
}
"""Of the body of POST runs; tests send each of them."""

_RUN_ID = "01936f7a-5b1e-7c44-9c0f-3a7d6f0e2b11"
_ATTEMPT_ID = "01936f7a-6c02-7d1e-8a55-0b1f4c9e7d20"
_AT = "2026-11-24T09:30:00.000Z"
_CALL: dict[str, Any] = {
    "call_id": "4711",
    "lead_id": "crm-17",
    "phone": "+972502345678",
    "state": "completed",
    "outcome": "answered",
    "attempts": [
        {
            "attempt_id": _ATTEMPT_ID,
            "number": 1,
            "state": "ended",
            "outcome": "answered",
            "carrier": "twilio",
            "carrier_call_id": "CA00000000000000000000000000000001",
            "claimed_at": _AT,
            "placed_at": _AT,
            "ringing_at": _AT,
            "answered_at": _AT,
            "unknown_at": None,
            "ended_at": _AT,
            "duration": 42,
            "error": None,
            "decision": None,
            "decided_by": None,
            "worker_id": "worker-7:4711",
            "empty_lookups": 0,
            "next_lookup_at": None,
        }
    ],
    "next_attempt_at": None,
    "waiting_for": None,
    "cancel_requested": False,
    "last_error": None,
    "variables": {"name": "Dana"},
}
EXAMPLES: dict[type[BaseModel], Any] = {
    answers.RunTaken: {
        "run_id": _RUN_ID,
        "status": "pending",
        "accepted": 2,
        "duplicates": 0,
        "rejected": 1,
        "rejections": [{"index": 3, "lead_id": "crm-20", "code": "invalid_phone"}],
    },
    answers.Run: {
        "run_id": _RUN_ID,
        "name": "November renewals",
        "status": "running",
        "total_leads": 2,
        "queued": 0,
        "in_progress": 1,
        "completed": 1,
        "failed": 0,
        "cancelled": 0,
        "unknown": 0,
        "outcomes": {"answered": 1, "busy": 0, "no_answer": 0, "failed": 0, "cancelled": 0},
        "attempts": 2,
        "duplicates": 0,
        "rejected": 1,
        "concurrency": 10,
        "calls_per_second": 1.0,
        "caller_id": "+97231234567",
        "metadata": {"owner": "42"},
        "created_at": _AT,
        "started_at": _AT,
        "ended_at": None,
        "start_at": None,
        "expires_at": None,
        "purged_at": None,
        "eta": _AT,
        "last_error": None,
        "cancel_requested": False,
        "can_pause": True,
        "can_resume": False,
        "can_cancel": True,
    },
    answers.CallWithTimeline: _CALL
    | {
        "timeline": [
            {
                "at": _AT,
                "event": "attempt_claimed",
                "source": "attempt",
                "attempt_id": _ATTEMPT_ID,
                "number": 1,
            }
        ]
    },
}
"""Of what answers look like, for people; tests hold them against their models."""
