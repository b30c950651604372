"""Callbacks that settle calls, beside what pgbench makes of one update and one insert each.

Ours: signed `completed` callbacks for placed calls, sent to the real web process; a turn is over
when the last one is answered, which is after its COMMIT. The reference updates one row of as many
and inserts one, in a transaction, on as many connections.

`refused`: the same requests with a wrong signature. They cost what HTTP, routing and the signature
do, and reach neither rule nor database: no callback can be cheaper on this stack.
"""

from __future__ import annotations

import re
import resource
import subprocess
from functools import partial
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

from twilio.request_validator import RequestValidator

from benchmarks import wire
from benchmarks.ground import Cost, Ground
from benchmarks.ours import Ours
from benchmarks.placed import place
from benchmarks.results import Report, Turn, in_turn, percentile

FULL = {"rounds": 7, "callbacks": 800, "connections": 16}
QUICK = {"rounds": 1, "callbacks": 300, "connections": 4}
RUNS = 10
_TABLES = """
    CREATE TABLE one (id bigint PRIMARY KEY, state text NOT NULL, at timestamptz)
        WITH (fillfactor = 60);
    CREATE TABLE told (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, one_id bigint NOT NULL,
                       at timestamptz NOT NULL DEFAULT clock_timestamp(), event text NOT NULL);
"""
_SCRIPT = r"""\set id random(1, {rows})
BEGIN;
UPDATE one SET state = 'ended', at = clock_timestamp() WHERE id = :id;
INSERT INTO told (one_id, event) VALUES (:id, 'completed');
END;
"""
_BLANK = ("CalledCity", "CalledCountry", "CalledState", "CalledZip", "CallerCity", "CallerCountry",
          "CallerState", "CallerZip", "FromCity", "FromCountry", "FromState", "FromZip", "ToCity",
          "ToCountry", "ToState", "ToZip")  # fmt: skip


def run(ground: Ground, report: Report, *, rounds: int, callbacks: int, connections: int) -> None:
    took: list[float] = []
    with Ours(ground) as ours:
        ours.start_web()
        turns = in_turn(
            rounds,
            {
                "ours": partial(settle, ours, callbacks, connections, took),
                "refused": partial(_refuse, ours, callbacks, connections),
                "pgbench": partial(
                    ours.while_stopped, partial(_pgbench, ground, callbacks, connections)
                ),
            },
        )
        spread = [settle(ours, callbacks, connections, [], RUNS) for _ in range(min(3, rounds))]
    what = f"completed -> settled, {connections} connections : pgbench"
    report.compare(what, turns["ours"], turns["pgbench"])
    what = "refused by its signature : pgbench"
    report.compare(what, turns["refused"], turns["pgbench"])
    report.one_side(f"the same over {RUNS} runs", "/s", spread)
    for share in (0.5, 0.99):
        report.tell(f"a callback's answer, p{share * 100:.0f}", "ms", percentile(took, share) * 1e3)


def settle(ours: Ours, callbacks: int, connections: int, took: list[float], runs: int = 1) -> Turn:
    """Settle so many calls of so many runs; notes the seconds that each callback took."""
    ours.forget()
    each = callbacks // runs
    placed = [place(ours, each, first=number * each) for number in range(runs)]
    attempts = [attempt for same in zip(*placed, strict=True) for attempt in same]
    requests = [callback(ours, attempt, sid) for attempt, sid in attempts]
    ours.ground.settle_down("ours")
    wire.send_all(ours.base, [ours.get("/account")] * 200, connections, 200)  # all is connected
    with ours.ground.metered(*ours.pids) as meter:
        replies = wire.send_all(ours.base, requests, connections, 204)
    assert not replies.unwanted, f"{replies.unwanted} callbacks were not taken"
    assert ours.counted()["answered"] == len(attempts)
    took += replies.seconds
    return Turn(len(attempts), meter.seconds, meter.cost)


def _refuse(ours: Ours, callbacks: int, connections: int) -> Turn:
    request = callback(ours, str(uuid4()), "CA" + "0" * 32).replace(
        b"CallDuration=2", b"CallDuration=3"
    )
    with ours.ground.metered(*ours.pids) as meter:
        replies = wire.send_all(ours.base, [request] * callbacks, connections, 403)
    assert not replies.unwanted, f"{replies.unwanted} forgeries were not refused"
    return Turn(callbacks, meter.seconds, meter.cost)


def callback(ours: Ours, attempt: str, sid: str) -> bytes:
    """Sign what the carrier sends when a call is over."""
    url = f"{ours.base}/webhooks/twilio/{attempt}"
    form = {
        "AccountSid": ours.stack.environment["TWILIO_ACCOUNT_SID"],
        "ApiVersion": "2010-04-01",
        "CallSid": sid,
        "CallStatus": "completed",
        "CallDuration": "2",
        "Direction": "outbound-api",
        "From": "+97231234567",
        "SequenceNumber": "3",
        "SipResponseCode": "200",
        "To": "+12025550100",
    } | dict.fromkeys(_BLANK, "")
    signer = RequestValidator(ours.stack.environment["TWILIO_AUTH_TOKEN"])
    return wire.request(
        "POST",
        url,
        urlencode(form).encode(),
        Content_Type="application/x-www-form-urlencoded; charset=UTF-8",
        X_Twilio_Signature=signer.compute_signature(url, form),
    )


def _pgbench(ground: Ground, transactions: int, connections: int) -> Turn:
    url = ground.database("reference")
    ground.sql(_TABLES, database="reference")
    ground.sql(
        "INSERT INTO one SELECT n, 'placed' FROM generate_series(1, %s) n",
        transactions,
        database="reference",
    )
    ground.settle_down("reference")
    script = ground.directory / "pgbench.sql"
    script.write_text(_SCRIPT.format(rows=transactions))
    each = -(-transactions // connections)
    program = Path(ground.postgres._programs) / "pgbench"
    options = ["-n", "-M", "prepared", "-f", str(script), "-c", str(connections), "-t", str(each)]
    own = _children_cpu()
    with ground.metered() as meter:
        ran = subprocess.run([program, *options, url], capture_output=True, text=True, check=True)
    found = re.search(r"^tps = ([0-9.]+)", ran.stdout, re.MULTILINE)
    assert found, ran.stdout
    servers = meter.cost
    cost = Cost(_children_cpu() - own, servers.postgres, servers.redis, servers.wal)
    return Turn(each * connections, each * connections / float(found[1]), cost)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
