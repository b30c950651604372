"""`outbound doctor`: what a new installation gets wrong, and how to mend it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import click
import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from outbound import config, db, doorbell, migrations
from outbound.carriers import base
from outbound.cli.output import harmless, json_option, show
from outbound.config import Settings
from outbound.errors import ConfigError
from outbound.reconciler.leader import KEY

MOST_CLOCK_SECONDS = 2
OLDEST_POSTGRES = 150000
UNSERVED_SECONDS = 10
NEEDED = ("database_url", "redis_url", "public_base_url")

# Runs with work that a claim would take, and would have taken that long ago: nobody dials.
_UNSERVED = text("""
    SELECT count(*) FROM runs r JOIN account_pace p ON p.account_id = r.account_id
      JOIN LATERAL (SELECT min(next_attempt_at) AS at FROM calls
                     WHERE run_id = r.id AND state = 'queued') due ON due.at IS NOT NULL
     WHERE r.ended_at IS NULL AND r.status IN ('pending', 'running') AND NOT r.cancel_requested
       AND (r.expires_at IS NULL OR r.expires_at > clock_timestamp()) AND NOT p.stopped
       AND greatest(due.at, r.created_at, r.next_send_at, p.last_claim_at, p.next_send_at,
                    p.not_before, (SELECT max(next_trial_at) FROM breakers b
                                    WHERE b.account_id = p.account_id))
           < clock_timestamp() - make_interval(secs => :seconds)
       AND (SELECT count(*) < p.max_live_calls
                   AND count(*) FILTER (WHERE a.run_id = r.id) < r.concurrency
              FROM attempts a
             WHERE a.account_id = p.account_id AND a.ended_at IS NULL
               AND (a.state <> 'unknown' OR clock_timestamp() < a.occupies_until))
""")


@dataclass(frozen=True)
class Finding:
    """What one check found: `ok`, `warn` or `fail`, and how to mend it."""

    check: str
    result: str
    detail: str
    mend: str = ""


@click.command()
@json_option
def doctor(*, as_json: bool) -> int:
    """Check this installation; exit code 1 if something is broken."""
    found = list(examine())
    if as_json:
        show([asdict(one) | {"mend": _mend(one)} for one in found], as_json=True)
    else:
        for one in found:
            _tell(one)
    return 1 if any(one.result == "fail" for one in found) else 0


def _mend(finding: Finding) -> str:
    return "" if finding.result == "ok" else finding.mend


def _tell(finding: Finding) -> None:
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.result]
    click.echo(f"{click.style(f'{finding.result:<4}', fg=colour)}  {finding.check}: ", nl=False)
    click.echo(harmless(finding.detail))
    if mend := _mend(finding):
        click.echo(f"      → {mend}")


def examine() -> Iterator[Finding]:
    """Run every check that the ones before it make possible."""
    wrong = list(_settings())
    yield from wrong or [Finding("settings", "ok", "all that is needed is set")]
    try:
        settings = config.read()
    except ConfigError:
        return
    if settings.database_url:
        mend = "check DATABASE_URL and its server"
        yield from _guard("database", lambda: _database(settings), mend)
    if settings.redis_url:
        yield from _guard("redis", lambda: _redis(settings), "check REDIS_URL and its server")
    if settings.public_base_url:
        yield from _public_url(settings)
    yield from _guard("carrier", lambda: _carrier(settings), "check the carrier's settings")


def _settings() -> Iterator[Finding]:
    """Name every needed variable that is missing, not just the first; or the malformed one."""
    said = set()
    for name in NEEDED:
        try:
            config.read(name)
        except ConfigError as error:
            if str(error) not in said:
                yield Finding("settings", "fail", str(error), "set it in the environment")
            said.add(str(error))


def _guard(check: str, examine_it: Callable[[], Iterator[Finding]], mend: str) -> Iterator[Finding]:
    try:
        yield from examine_it()
    # ValueError: a URL whose port is no number.
    except (
        SQLAlchemyError,
        redis.RedisError,
        ConfigError,
        base.CarrierUnavailable,
        ValueError,
    ) as error:
        yield Finding(check, "fail", str(getattr(error, "orig", error)).splitlines()[0], mend)


def _database(settings: Settings) -> Iterator[Finding]:
    engine = db.connect(settings, pool=2)
    with engine.connect() as connection:
        version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
        result = "ok" if version >= OLDEST_POSTGRES else "fail"
        detail = f"PostgreSQL {version // 10000}, by {engine.dialect.driver}"
        yield Finding("database", result, detail, "use 15 or newer")
        if not migrations.is_current(connection):
            yield Finding("migrations", "fail", "not this version's schema", "outbound migrate")
            return
        yield Finding("migrations", "ok", "this version's schema")
        clock = float(
            connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )
        off = abs(clock - time.time())
        result = "ok" if off < MOST_CLOCK_SECONDS else "warn"
        yield Finding("clock", result, f"{off:.1f} s from the database's", "run NTP on both")
        unserved = connection.execute(_UNSERVED, {"seconds": UNSERVED_SECONDS}).scalar_one()
        result = "fail" if unserved else "ok"
        yield Finding(
            "worker",
            result,
            f"{unserved or 'no'} runs with due work that nobody takes",
            "start `outbound worker`; look for WORKER_START in its log",
        )


def _redis(settings: Settings) -> Iterator[Finding]:
    client = doorbell.client(settings, read_seconds=2)
    client.ping()
    yield Finding("redis", "ok", "answers")
    yield from _redis_options(client)
    leads = client.exists(KEY)
    yield Finding(
        "leader",
        "ok" if leads else "fail",
        "a reconciler leads" if leads else "no reconciler leads",
        "start `outbound reconciler`",
    )


def _redis_options(client: redis.Redis) -> Iterator[Finding]:
    # INFO, since hosted servers refuse CONFIG. Neither option loses a lead: both cost time.
    memory, disk = client.info("memory"), client.info("persistence")
    policy = memory.get("maxmemory_policy", "unknown")
    yield Finding(
        "redis memory",
        "ok" if policy == "noeviction" else "warn",
        f"maxmemory-policy {policy}",
        "set noeviction: evicted doorbells are late calls",
    )
    is_kept = bool(disk.get("aof_enabled"))
    yield Finding(
        "redis persistence",
        "ok" if is_kept else "warn",
        f"append-only file {'on' if is_kept else 'off'}",
        "set appendonly yes: doorbells lost in a restart are late calls",
    )


def _public_url(settings: Settings) -> Iterator[Finding]:
    parts = urlsplit(settings.public_base_url or "")
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    fine = parts.scheme == "https" and not local
    yield Finding(
        "public url",
        "ok" if fine else "warn",
        f"PUBLIC_BASE_URL is {'https' if fine else 'not https on a public host'}",
        "the carrier must reach it, and signs exactly this URL",
    )


def _carrier(settings: Settings) -> Iterator[Finding]:
    carrier = base.load(settings)
    carrier.look_up("CA" + "0" * 32)
    yield Finding("carrier", "ok", f"{carrier.name} takes our credentials")
