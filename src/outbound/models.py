"""The tables, and what their constraints and indexes are for.

The constraints are the judges: whoever wins the INSERT may dial, everybody else finds nothing
to do. No index names `state` or `lease_until`, so that most moves of a call and its attempt stay
HOT: they write to no index (docs/performance.md, "Hot statements").
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

fence_seq = Sequence("fence_seq", metadata=metadata)
"""Ever-growing: each claim takes one number, and only its holder may release what it claimed."""


def _time(name: str, *, now: bool = False, null: bool = True) -> Column[object]:
    default = func.clock_timestamp() if now else None
    return Column(name, DateTime(timezone=True), nullable=null and not now, server_default=default)


def _count(name: str) -> Column[object]:
    return Column(name, Integer, nullable=False, server_default="0")


def _no(name: str) -> Column[object]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


accounts = Table(
    "accounts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("caller_ids", ARRAY(Text), nullable=False, server_default="{}"),
    Column("default_region", Text),
    Column("default_answer_url", Text),
    Column("default_twiml", Text),
    _time("reconciled_at"),
    _time("created_at", now=True),
)

account_pace = Table(
    "account_pace",
    metadata,
    Column("account_id", Uuid, ForeignKey("accounts.id"), primary_key=True),
    Column("max_live_calls", Integer, nullable=False, server_default="20"),
    Column("calls_per_second", Double, nullable=False, server_default="1.0"),
    Column("min_seconds_between_calls", Integer, nullable=False, server_default="3600"),
    _no("stopped"),
    _time("stopped_at"),
    Column("stopped_by", Text),
    _time("hang_up_before"),  # calls claimed until then are to be ended: a stop asked for it
    _time("not_before"),
    Column("backoff_seconds", Double, nullable=False, server_default="0"),
    _time("next_send_at"),
    _time("last_claim_at"),
    # Nothing may reference this table: its row is locked by every claim, and a foreign key
    # to it would make every import of leads wait for that lock.
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, ForeignKey("accounts.id"), nullable=False),
    Column("name", Text),
    Column("role", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),  # query: who is this caller
    Column("hint", Text, nullable=False),
    _time("created_at", now=True),
    _time("revoked_at"),
    Index(None, "account_id", "id"),  # query: an account's keys, newest first
)

# Who is signed in to the console. Known by the hash of the cookie's token, as keys are by theirs;
# it is as good as its key: a revoked key ends its sessions at once.
sessions = Table(
    "sessions",
    metadata,
    Column("hash", LargeBinary, primary_key=True),  # query: whose session is this
    Column("key_id", Uuid, ForeignKey("api_keys.id"), nullable=False),
    _time("created_at", now=True),
    _time("expires_at", null=False),
    Index(None, "expires_at"),  # query: the purge at every sign-in
)

runs = Table(
    "runs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, ForeignKey("accounts.id"), nullable=False),
    Column("name", Text),
    Column("status", Text, nullable=False),
    _no("cancel_requested"),
    _no("hang_up"),
    _no("expiry_ended_calls"),
    Column("total_leads", Integer, nullable=False),
    _count("duplicates"),
    _count("rejected"),
    Column("concurrency", Integer, nullable=False),
    Column("calls_per_second", Double, nullable=False),
    Column("caller_id", Text, nullable=False),
    Column("answer_url", Text),
    Column("twiml", Text),
    Column("ring_timeout", Integer, nullable=False),
    Column("max_call_duration", Integer, nullable=False),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("retry_delay", Integer, nullable=False),
    Column("retry_on", ARRAY(Text), nullable=False),
    Column("on_unknown", Text, nullable=False),
    Column("on_unknown_after", Integer),
    _time("start_at"),
    _time("expires_at"),
    Column("metadata", JSONB, nullable=False, server_default="{}"),
    Column("body_hash", LargeBinary, nullable=False),
    Column("request_id", Text),
    _time("next_send_at"),
    _time("last_served_at"),
    # Where the last claim found the first queued call: a hint, see claims._HEAD.
    _time("queue_head_at"),
    Column("queue_head_id", BigInteger),
    # No attempt of an earlier fence is live, but for those that were unknown: see claims._LIMITS.
    Column("live_from", BigInteger, nullable=False, server_default="0"),
    _time("created_at", now=True),
    _time("started_at"),
    _time("ended_at"),
    _time("purge_started_at"),  # from then on no call of it can be queued again
    _time("purged_at"),
    Index(None, "account_id", "id"),  # query: an account's runs, newest first (UUIDv7)
    # query: what a claim, a sweep or advance may still move
    Index("runs_open_idx", "account_id", "id", postgresql_where=text("ended_at IS NULL")),
    # query: the twin that a double-clicked button posts
    Index("runs_twin_idx", "account_id", "body_hash", "created_at"),
)

STATE_COUNTERS = ("queued", "in_progress", "completed", "failed", "cancelled", "unknown")
OUTCOME_COUNTERS = ("answered", "busy", "no_answer", "outcome_failed", "outcome_cancelled")
COUNTERS = (*STATE_COUNTERS, *OUTCOME_COUNTERS, "attempts")

run_counters = Table(
    "run_counters",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.id"), primary_key=True),
    Column("shard", SmallInteger, primary_key=True),
    # No CHECK: one shard may be negative, only the sum over the shards means something.
    *(_count(name) for name in COUNTERS),
    postgresql_with={"fillfactor": "50"},
)

calls = Table(
    "calls",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("run_id", Uuid, ForeignKey("runs.id"), nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("lead_id", Text, nullable=False),
    Column("phone", Text, nullable=False),
    Column("variables", JSONB),
    Column("state", Text, nullable=False, server_default="queued"),
    # For indexes: one that named `state` would be written to at each of a call's moves.
    Column("is_queued", Boolean, Computed("state = 'queued'", persisted=True), nullable=False),
    Column("outcome", Text),
    _time("next_attempt_at", now=True),
    Column("waiting_for", Text),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("last_number", SmallInteger, nullable=False, server_default="0"),
    _no("cancel_requested"),
    Column("last_error", Text),
    UniqueConstraint("run_id", "lead_id"),
    UniqueConstraint("run_id", "phone"),
    # query: the claim's next calls of a run, and "has this run work left"
    Index(
        "calls_due_idx",
        "run_id",
        "next_attempt_at",
        "id",
        postgresql_where=text("is_queued"),
    ),
    # query: who waits for this phone, when it falls free
    Index(
        "calls_waiting_idx",
        "account_id",
        "phone",
        postgresql_where=text("is_queued AND waiting_for = 'phone'"),
    ),
    # query: the calls of a run, newest first, by pages
    Index("calls_page_idx", "run_id", "id"),
    postgresql_with={"fillfactor": "60"},
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("call_id", BigInteger, ForeignKey("calls.id"), nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("account_id", Uuid, nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("phone", Text, nullable=False),
    Column("caller_id", Text, nullable=False),
    Column("carrier", Text, nullable=False),
    Column("carrier_call_id", Text),
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("phone_held", Boolean, nullable=False, server_default=text("true")),
    Column("fence", BigInteger, nullable=False),
    Column("worker_id", Text, nullable=False),
    _time("lease_until", null=False),
    _time("claimed_at", null=False),
    _time("occupies_until", null=False),
    _time("placed_at"),
    _time("ringing_at"),
    _time("answered_at"),
    _time("unknown_at"),
    _time("ended_at"),
    Column("duration", Integer),
    Column("error", Text),
    _time("heard_at"),  # the last callback: `on_unknown` redials only where none ever came
    Column("decision", Text),
    Column("decided_by", Text),
    _no("decision_stands"),
    _time("next_lookup_at"),
    _count("empty_lookups"),
    _time("lookups_fail_since"),
    _no("hang_up"),
    _time("next_hang_up_at"),
    _count("hang_ups"),
    UniqueConstraint("call_id", "number"),
    UniqueConstraint("carrier", "carrier_call_id"),
    # The judge of who may ring this person now.
    Index(
        "attempts_one_held_phone",
        "account_id",
        "phone",
        unique=True,
        postgresql_where=text("phone_held"),
    ),
    # query: what occupies a slot, what every sweep looks at: small, since most attempts end
    Index(
        "attempts_open_idx",
        "account_id",
        "run_id",
        "fence",
        postgresql_where=text("ended_at IS NULL"),
    ),
    # queries: was this phone called a short while ago by another run; which unresolved attempts
    # of any account share this To and From
    Index("attempts_recent_idx", "phone", "account_id", "claimed_at"),
    postgresql_with={"fillfactor": "50"},
)

# Attempts that were unknown and are not over, kept by a trigger of `attempts`: a claim counts them
# besides, since any word of the carrier may bring them back.
unknown_attempts = Table(
    "unknown_attempts",
    metadata,
    Column("account_id", Uuid, primary_key=True),
    Column("attempt_id", Uuid, primary_key=True),
    Column("run_id", Uuid, nullable=False),
    _time("occupies_until", null=False),
    Column("is_placed", Boolean, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("run_id", Uuid),  # null: about the account as a whole
    Column("call_id", BigInteger),
    Column("attempt_id", Uuid),
    _time("at", now=True),
    Column("event", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("actor", Text),
    Column("request_id", Text),
    Column("details", JSONB),
    Index(None, "run_id", "call_id", "id"),  # query: one call's timeline
    # query: what people did, newest first; `on_unknown` is the run's policy, nobody's hand
    Index("events_actions_idx", "account_id", "id", postgresql_where=text("actor <> 'on_unknown'")),
)

suppressions = Table(
    "suppressions",
    metadata,
    # In this order: the claim's one probe for each due call.
    Column("account_id", Uuid, primary_key=True),
    Column("phone", Text, primary_key=True),
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("reason", Text),
    Column("actor", Text, nullable=False),
    Column("request_id", Text),
    _time("created_at", now=True),
    Index(None, "account_id", "id"),  # query: the list, newest first
)

rejections = Table(
    "rejections",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.id"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("lead_id", Text),
    Column("code", Text, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("account_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("body", LargeBinary, nullable=False),
    _time("created_at", now=True),
    Index(None, "created_at"),  # query: the purge of old keys
)

leader_epoch = Table(
    "leader_epoch",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    _time("acquired_at", now=True),
)

metric_counts = Table(
    "metric_counts",  # what all processes counted together (metrics.py); some 200 rows, for ever
    metadata,
    Column("series", Text, primary_key=True),
    Column("value", Double, nullable=False),
    postgresql_with={"fillfactor": "50"},
)

breakers = Table(
    "breakers",
    metadata,
    Column("account_id", Uuid, primary_key=True),
    Column("carrier", Text, primary_key=True),
    _time("opened_at", null=False),
    _time("next_trial_at", null=False),
    Column("last_error", Text, nullable=False),
)

stray_carrier_calls = Table(
    "stray_carrier_calls",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("attempt_id", Uuid, nullable=False),
    Column("carrier", Text, nullable=False),
    Column("carrier_call_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _time("seen_at", now=True),
    _time("next_hang_up_at"),
    _count("hang_ups"),
    _time("ended_at"),
    UniqueConstraint("carrier", "carrier_call_id"),
    # query: strays that still have to be hung up
    Index("stray_open_idx", "account_id", postgresql_where=text("ended_at IS NULL")),
)
