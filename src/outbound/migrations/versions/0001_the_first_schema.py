"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.execute(sa.schema.CreateSequence(sa.Sequence("fence_seq")))
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("caller_ids", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("default_region", sa.Text(), nullable=True),
        sa.Column("default_answer_url", sa.Text(), nullable=True),
        sa.Column("default_twiml", sa.Text(), nullable=True),
        sa.Column("reconciled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("accounts_pkey")),
        sa.UniqueConstraint("name", name=op.f("accounts_name_key")),
    )
    op.create_table(
        "breakers",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("carrier", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_trial_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "carrier", name=op.f("breakers_pkey")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("call_id", sa.BigInteger(), nullable=True),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pkey")),
    )
    op.create_index(
        op.f("events_run_id_call_id_id_idx"), "events", ["run_id", "call_id", "id"], unique=False
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("idempotency_keys_pkey")),
    )
    op.create_index(
        op.f("idempotency_keys_created_at_idx"), "idempotency_keys", ["created_at"], unique=False
    )
    op.create_table(
        "leader_epoch",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column(
            "acquired_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("leader_epoch_pkey")),
    )
    op.create_table(
        "stray_carrier_calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("carrier", sa.Text(), nullable=False),
        sa.Column("carrier_call_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("next_hang_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("hang_ups", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("stray_carrier_calls_pkey")),
        sa.UniqueConstraint(
            "carrier",
            "carrier_call_id",
            name=op.f("stray_carrier_calls_carrier_carrier_call_id_key"),
        ),
    )
    op.create_index(
        "stray_open_idx",
        "stray_carrier_calls",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "account_pace",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("max_live_calls", sa.Integer(), server_default="20", nullable=False),
        sa.Column("calls_per_second", sa.Double(), server_default="1.0", nullable=False),
        sa.Column("min_seconds_between_calls", sa.Integer(), server_default="3600", nullable=False),
        sa.Column("stopped", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("backoff_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("next_send_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_claim_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("account_pace_account_id_fkey")
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("account_pace_pkey")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("api_keys_account_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        sa.UniqueConstraint("hash", name=op.f("api_keys_hash_key")),
    )
    op.create_index(
        op.f("api_keys_account_id_id_idx"), "api_keys", ["account_id", "id"], unique=False
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column("hang_up", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "expiry_ended_calls", sa.Boolean(), server_default=sa.text("false"), nullable=False
        ),
        sa.Column("total_leads", sa.Integer(), nullable=False),
        sa.Column("duplicates", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rejected", sa.Integer(), server_default="0", nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("calls_per_second", sa.Double(), nullable=False),
        sa.Column("caller_id", sa.Text(), nullable=False),
        sa.Column("answer_url", sa.Text(), nullable=True),
        sa.Column("twiml", sa.Text(), nullable=True),
        sa.Column("ring_timeout", sa.Integer(), nullable=False),
        sa.Column("max_call_duration", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("retry_delay", sa.Integer(), nullable=False),
        sa.Column("retry_on", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("on_unknown", sa.Text(), nullable=False),
        sa.Column("on_unknown_after", sa.Integer(), nullable=True),
        sa.Column("start_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("next_send_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_served_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("runs_account_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("runs_pkey")),
    )
    op.create_index(op.f("runs_account_id_id_idx"), "runs", ["account_id", "id"], unique=False)
    op.create_index(
        "runs_open_idx",
        "runs",
        ["account_id", "id"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "runs_twin_idx", "runs", ["account_id", "body_hash", "created_at"], unique=False
    )
    op.create_table(
        "calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("lead_id", sa.Text(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False),
        sa.Column("variables", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column(
            "next_attempt_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("waiting_for", sa.Text(), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("last_number", sa.SmallInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("calls_run_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("calls_pkey")),
        sa.UniqueConstraint("run_id", "lead_id", name=op.f("calls_run_id_lead_id_key")),
        sa.UniqueConstraint("run_id", "phone", name=op.f("calls_run_id_phone_key")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "calls_due_idx",
        "calls",
        ["run_id", "next_attempt_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index("calls_page_idx", "calls", ["run_id", "id"], unique=False)
    op.create_index(
        "calls_waiting_idx",
        "calls",
        ["account_id", "phone"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND waiting_for = 'phone'"),
    )
    op.create_table(
        "rejections",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("lead_id", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("rejections_run_id_fkey")),
        sa.PrimaryKeyConstraint("run_id", "index", name=op.f("rejections_pkey")),
    )
    op.create_table(
        "run_counters",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("shard", sa.SmallInteger(), nullable=False),
        sa.Column("queued", sa.Integer(), server_default="0", nullable=False),
        sa.Column("in_progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("completed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unknown", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answered", sa.Integer(), server_default="0", nullable=False),
        sa.Column("busy", sa.Integer(), server_default="0", nullable=False),
        sa.Column("no_answer", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcome_failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("outcome_cancelled", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("run_counters_run_id_fkey")),
        sa.PrimaryKeyConstraint("run_id", "shard", name=op.f("run_counters_pkey")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("call_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("phone", sa.Text(), nullable=False),
        sa.Column("caller_id", sa.Text(), nullable=False),
        sa.Column("carrier", sa.Text(), nullable=False),
        sa.Column("carrier_call_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("phone_held", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("occupies_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ringing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("unknown_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decision_stands", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("next_lookup_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("empty_lookups", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lookups_fail_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_hang_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("hang_ups", sa.Integer(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("attempts_call_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("attempts_pkey")),
        sa.UniqueConstraint("call_id", "number", name=op.f("attempts_call_id_number_key")),
        sa.UniqueConstraint(
            "carrier", "carrier_call_id", name=op.f("attempts_carrier_carrier_call_id_key")
        ),
        postgresql_with={"fillfactor": "60"},
    )
    op.create_index(
        "attempts_live_idx",
        "attempts",
        ["account_id", "run_id"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "attempts_one_held_phone",
        "attempts",
        ["account_id", "phone"],
        unique=True,
        postgresql_where=sa.text("phone_held"),
    )
    op.create_index(
        "attempts_recent_idx", "attempts", ["phone", "account_id", "claimed_at"], unique=False
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("attempts_recent_idx", table_name="attempts")
    op.drop_index(
        "attempts_one_held_phone", table_name="attempts", postgresql_where=sa.text("phone_held")
    )
    op.drop_index(
        "attempts_live_idx", table_name="attempts", postgresql_where=sa.text("ended_at IS NULL")
    )
    op.drop_table("attempts")
    op.drop_table("run_counters")
    op.drop_table("rejections")
    op.drop_index(
        "calls_waiting_idx",
        table_name="calls",
        postgresql_where=sa.text("state = 'queued' AND waiting_for = 'phone'"),
    )
    op.drop_index("calls_page_idx", table_name="calls")
    op.drop_index("calls_due_idx", table_name="calls", postgresql_where=sa.text("state = 'queued'"))
    op.drop_table("calls")
    op.drop_index("runs_twin_idx", table_name="runs")
    op.drop_index("runs_open_idx", table_name="runs", postgresql_where=sa.text("ended_at IS NULL"))
    op.drop_index(op.f("runs_account_id_id_idx"), table_name="runs")
    op.drop_table("runs")
    op.drop_index(op.f("api_keys_account_id_id_idx"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("account_pace")
    op.drop_index(
        "stray_open_idx",
        table_name="stray_carrier_calls",
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.drop_table("stray_carrier_calls")
    op.drop_table("leader_epoch")
    op.drop_index(op.f("idempotency_keys_created_at_idx"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index(op.f("events_run_id_call_id_id_idx"), table_name="events")
    op.drop_table("events")
    op.drop_table("breakers")
    op.drop_table("accounts")
    op.execute(sa.schema.DropSequence(sa.Sequence("fence_seq")))
