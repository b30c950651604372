"""Who leads: a Redis lock says who tries, PostgreSQL's epoch says who may write.

The lock is trusted by this process's monotonic clock, for less than its time in Redis, and is
renewed on a thread of its own. Followers wait on a bell, and poll only when the time is nearly
out. A leader that lost its lock, or meets another epoch, competes again.
"""

from __future__ import annotations

import threading
import time
from uuid import uuid4

import redis
from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError

from outbound import db, doorbell, logs, metrics, node, signals
from outbound.config import Settings
from outbound.node import Node
from outbound.reconciler import sweeps
from outbound.reconciler.sweeps import Deposed, Scope, Sweep
from outbound.reconciler.table import SWEEPS

log = logs.get(__name__)

KEY = f"{doorbell.NAMESPACE}:leader"
BELL = f"{doorbell.NAMESPACE}:leader:bell"
TTL = 2.5
RENEW_EVERY = 0.5
TRUST_MARGIN = 0.5
TICK = 1.0
READ_SECONDS = 1.0
POLL = 0.1
REST = 0.5
"""After a batch that may not be the last one, this share of its time is left to those who dial."""
MOST_REST = 0.5
"""Seconds."""

_RENEW = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('pexpire', KEYS[1], ARGV[2])
"""
_RESIGN = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('del', KEYS[1])
redis.call('rpush', KEYS[2], '1')
redis.call('ltrim', KEYS[2], -4, -1)
return 1
"""
_BECOME = text("""
    INSERT INTO leader_epoch AS l (name, epoch, holder) VALUES ('reconciler', 1, :holder)
    ON CONFLICT (name) DO UPDATE
       SET epoch = l.epoch + 1, holder = excluded.holder, acquired_at = clock_timestamp()
    RETURNING epoch
""")


class Lock:
    """The Redis lock, with its renewal thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._token = uuid4().hex
        self._trusted_until = 0.0
        self._held = threading.Event()
        self._renew = client.register_script(_RENEW)
        self._resign = client.register_script(_RESIGN)
        threading.Thread(target=self._keep, name="leader-lock", daemon=True).start()

    @property
    def is_trusted(self) -> bool:
        """Whether the lock is certainly ours now."""
        return time.monotonic() < self._trusted_until

    def acquire(self) -> bool:
        """Try once."""
        started = time.monotonic()
        got = self._redis.set(KEY, self._token, nx=True, px=int(TTL * 1000))
        # The answer to an earlier try may have got lost: then the key holds our own token.
        if not got and self._redis.get(KEY) != self._token.encode():
            return False
        if not got and not self._renew(keys=[KEY], args=[self._token, int(TTL * 1000)]):
            return False
        self._trusted_until = started + TTL - TRUST_MARGIN
        self._held.set()
        return True

    def wait(self, seconds: float) -> None:
        """Wait until the lock may be free: its leader resigned, or its time is nearly out."""
        left = self._redis.pttl(KEY) / 1000
        if left <= 0:
            return
        self._redis.blpop(
            [BELL], timeout=max(0.05, min(left - POLL, seconds)) if left > POLL else POLL
        )

    def lose(self) -> None:
        """Trust the lock no longer."""
        self._held.clear()
        self._trusted_until = 0.0

    def resign(self) -> None:
        """Give the lock back and wake a follower."""
        self.lose()
        self._resign(keys=[KEY, BELL], args=[self._token])

    def _keep(self) -> None:
        while True:
            self._held.wait()
            time.sleep(RENEW_EVERY)
            started = time.monotonic()
            try:
                renewed = self._renew(keys=[KEY], args=[self._token, int(TTL * 1000)])
            except (redis.RedisError, OSError):
                continue  # the trust runs out by itself
            if not self._held.is_set():
                continue
            if renewed:
                self._trusted_until = started + TTL - TRUST_MARGIN
            else:
                self.lose()


class Reconciler:
    """Competes, leads, sweeps, and gives way."""

    def __init__(self, here: Node, client: redis.Redis) -> None:
        self._node = here
        self._lock = Lock(client)
        self._stop = threading.Event()
        self._probe = _probe_of(SWEEPS)
        self._told_away = False

    def stop(self) -> None:
        """Resign soon."""
        self._stop.set()

    def run(self) -> None:
        """Compete and lead until stopped. Neither server being away ends it."""
        while not self._stop.is_set():
            try:
                self._compete()
            except (redis.RedisError, SQLAlchemyError, OSError) as error:
                self._tell_away(error)
                self._lock.lose()
                self._stop.wait(TICK / 2)

    def _compete(self) -> None:
        if not self._lock.acquire():
            self._lock.wait(TICK)
            return
        epoch = self._become_leader()
        self._told_away = False
        log.info("leader_elected", lock_acquired=True, epoch=epoch)
        why = "an error"
        try:
            why = self._lead(epoch)
        finally:
            # Said first: giving the lock back takes Redis, whose absence may be the reason.
            log.info("leader_stepped_down", lock_acquired=False, epoch=epoch, reason=why)
            self._lock.resign()

    def _become_leader(self) -> int:
        with self._node.engine.begin() as connection:
            db.set_timeouts(connection, statement_ms=2000)
            connection.execute(sweeps.SWEEP_LOCK)
            holder = {"holder": self._node.worker_id}
            return int(connection.execute(_BECOME, holder).scalar_one())

    def _lead(self, epoch: int) -> str:
        while not self._stop.is_set():
            if not self._lock.is_trusted:
                return "the lock was lost"
            started = time.monotonic()
            try:
                self._tick(epoch)
                metrics.LEADER_TICKS.inc()
            except Deposed:
                return "another epoch is in force"
            except SQLAlchemyError as error:
                self._tell_away(error)
            else:
                self._told_away = False
            self._stop.wait(max(0.05, TICK - (time.monotonic() - started)))
        return "told to stop"

    def _tick(self, epoch: int) -> None:
        for sweep in self._with_work(epoch):
            while self._lock.is_trusted and not self._stop.is_set():
                started = time.monotonic()
                report = sweeps.run_once(self._node, sweep, Scope(epoch=epoch))
                if not sweep.repeats or report.rows < sweeps.BATCH:
                    break
                self._stop.wait(min(REST * (time.monotonic() - started), MOST_REST))

    def _with_work(self, epoch: int) -> list[Sweep]:
        with db.reading(self._node.engine) as connection:
            row = connection.execute(self._probe, {"account": None}).mappings().one()
        if row["epoch"] != epoch:
            # After a FLUSHALL between two winners nobody would ever sweep: writing 0 rows
            # looks like having nothing to do.
            raise Deposed("another leader's epoch is in force")
        return [sweep for sweep in SWEEPS if row[sweep.name]]

    def _tell_away(self, error: Exception) -> None:
        if not self._told_away:
            log.warning("reconciler_waits", error=type(error).__name__)
        self._told_away = True


def _probe_of(table: tuple[Sweep, ...]) -> TextClause:
    asked = ", ".join(f"EXISTS ({sweep.candidates}) AS {sweep.name}" for sweep in table)
    epoch = "(SELECT epoch FROM leader_epoch WHERE name = 'reconciler') AS epoch"
    return text(f"SELECT {asked}, {epoch}")


def serve(settings: Settings) -> None:
    """Reconcile until SIGTERM or SIGINT, then resign.

    Raises:
        ConfigError: a setting is missing.
    """
    logs.set_up(settings, "reconciler")
    here = node.build(settings, "reconciler")
    reconciler = Reconciler(here, doorbell.client(settings, read_seconds=READ_SECONDS + TICK))
    signals.on_stop(reconciler.stop)
    log.info("RECONCILER_START")
    metrics.start(here.engine)
    reconciler.run()
    log.info("reconciler_stopped")
