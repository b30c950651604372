"""PostgreSQL: is it there, has it our schema, and what does it know of our processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from outbound import __version__, db, migrations
from outbound.cli.checks import Finding, judge
from outbound.config import Settings

MOST_CLOCK_SECONDS = 2
OLDEST_POSTGRES = 150000
UNSERVED_SECONDS = 10
STATEMENT_SECONDS = 10
LONGEST_NAME = 63
"""PostgreSQL cuts an application_name, and with it the version at its end."""

# Runs with work that a claim would take, and would have taken that long ago: nobody dials.
_UNSERVED = text("""
    SELECT count(*) FROM runs r JOIN account_pace p ON p.account_id = r.account_id
      JOIN LATERAL (SELECT min(next_attempt_at) AS at FROM calls
                     WHERE run_id = r.id AND is_queued) due ON due.at IS NOT NULL
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
_PROCESSES = text("""
    SELECT DISTINCT application_name FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'outbound %'
""")
_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())")
_BARE = text("SELECT name FROM accounts WHERE cardinality(caller_ids) = 0 ORDER BY created_at")
_ACCOUNTS = text("SELECT count(*) FROM accounts")

_POOLER_REFUSES_SETTINGS = "unsupported startup parameter"
_IGNORE = "ignore_startup_parameters = extra_float_digits, options"


@dataclass(frozen=True)
class Process:
    """A process of ours as the database knows it; `version` is None if it says none."""

    kind: str
    worker_id: str
    version: str | None


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at the database; raises what a server that is away raises."""
    engine = db.connect(settings, pool=1, statement_seconds=STATEMENT_SECONDS)
    try:
        with engine.connect() as connection:
            yield from _server(connection, engine.dialect.driver)
            yield _schema(connection)
            if migrations.is_current(connection):
                yield from _contents(connection)
    except DBAPIError as error:
        if wrong := _pooler(engine, error):
            yield wrong
            return
        raise
    finally:
        engine.dispose()


def _pooler(engine: Engine, error: DBAPIError) -> Finding | None:
    says = str(error.orig)
    if _POOLER_REFUSES_SETTINGS in says:
        return Finding("pgbouncer", "fail", says.splitlines()[0], f"in pgbouncer.ini: {_IGNORE}")
    if "server closed the connection" in says and _answers_without_transactions(engine):
        detail = "statements are answered, and a transaction ends the connection: statement mode"
        return Finding("pgbouncer", "fail", detail, "in pgbouncer.ini: pool_mode = transaction")
    return None


def _answers_without_transactions(engine: Engine) -> bool:
    # PgBouncer tells why only its own log. SQLAlchemy's first act is a transaction, so without it.
    words, known = engine.dialect.create_connect_args(engine.url)
    try:
        with closing(engine.dialect.connect(*words, **known, connect_timeout=3)) as connection:
            connection.autocommit = True
            connection.cursor().execute("SELECT 1")
    except engine.dialect.loaded_dbapi.Error:
        return False
    return True


def _server(connection: Connection, driver: str) -> Iterator[Finding]:
    version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    yield judge(
        "database",
        f"PostgreSQL {version // 10000}, by {driver}",
        "use 15 or newer",
        fine=version >= OLDEST_POSTGRES,
    )
    if connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one():
        mend = "let DATABASE_URL name the primary"
        yield Finding("database", "fail", "this server is a standby: nothing can be written", mend)
    found = str(connection.execute(text("SHOW statement_timeout")).scalar_one())
    if found != f"{STATEMENT_SECONDS}s":
        yield Finding(
            "pgbouncer",
            "warn",
            "a pooler keeps our settings from the server: no statement has a time limit",
            "ALTER ROLE name SET statement_timeout = '10s'; likewise lock_timeout '5s',"
            " idle_in_transaction_session_timeout '10s', timezone 'UTC', jit off",
        )
    off = abs(float(connection.execute(_CLOCK).scalar_one()) - time.time())
    yield judge(
        "clock",
        f"{off:.1f} s off the database's",
        "run NTP on this host and on the database's",
        fine=off < MOST_CLOCK_SECONDS,
        otherwise="warn",
    )


def _schema(connection: Connection) -> Finding:
    if not migrations.is_current(connection):
        detail = f"the schema is missing, or older than version {__version__}"
        return Finding("migrations", "fail", detail, "run `outbound migrate`")
    if migrations.is_newer(connection):
        detail = f"the schema is newer than version {__version__}, which works on it"
        mend = "bring this installation to the newer version, or know that you stepped back"
        return Finding("migrations", "warn", detail, mend)
    return Finding("migrations", "ok", f"the schema of version {__version__}")


def _contents(connection: Connection) -> Iterator[Finding]:
    yield _versions(processes(connection))
    unserved = connection.execute(_UNSERVED, {"seconds": UNSERVED_SECONDS}).scalar_one()
    yield judge(
        "due work",
        f"{unserved or 'no'} runs with due work that nobody takes",
        "start `outbound worker`; look for WORKER_START in its log",
        fine=not unserved,
    )
    yield _accounts(connection)


def processes(connection: Connection) -> list[Process]:
    """Read which processes of ours are connected; an idle worker may not be."""
    names = connection.execute(_PROCESSES).scalars()
    return [one for name in names if (one := _process(str(name))).kind != "cli"]


def _process(name: str) -> Process:
    kind, worker_id, version = (*name.split(" ")[1:], "", "", "")[:3]
    # Cut off, half a version would pass for another one.
    return Process(kind, worker_id, version or None if len(name) < LONGEST_NAME else None)


def _versions(running: list[Process]) -> Finding:
    by_version: dict[str, list[str]] = {}
    for one in running:
        if one.version:
            by_version.setdefault(one.version, []).append(one.worker_id)
    others = {version: who for version, who in by_version.items() if version != __version__}
    told = "; ".join(f"{version}: {', '.join(sorted(who))}" for version, who in others.items())
    return judge(
        "versions",
        f"other versions than {__version__} run: {told}" if others else f"{__version__} alone",
        "bring all processes, and this command, to one version",
        fine=not others,
        otherwise="warn",
    )


def _accounts(connection: Connection) -> Finding:
    if not connection.execute(_ACCOUNTS).scalar_one():
        mend = "outbound account create NAME --caller-id +…"
        return Finding("accounts", "info", "there is no account yet", mend)
    bare = list(connection.execute(_BARE).scalars())
    return judge(
        "accounts",
        f"no caller id: {', '.join(bare)}" if bare else "each has a caller id",
        "PATCH /api/outbound/account with caller_ids: without one it can post no run",
        fine=not bare,
        otherwise="warn",
    )
