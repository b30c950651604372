"""Taking 100,000 leads in, beside the COPY and the INSERT that it cannot do without.

The reference has the leads as lines already and knows them to be valid: COPY into a temporary
table, INSERT … SELECT … ON CONFLICT into the same `calls`, COMMIT. Two POSTs at once then show
what other requests have to wait meanwhile.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import wire
from benchmarks.ground import Ground
from benchmarks.ours import Ours, phones
from benchmarks.proc import forget_peak, peak_mib, watched_mib
from benchmarks.results import Report, Turn, in_turn, percentile, say

FULL = {"rounds": 7, "leads": 100_000}
QUICK = {"rounds": 1, "leads": 2000}
_STAGE = """
    CREATE TEMPORARY TABLE new_leads
           (position integer, lead_id text, phone text, variables jsonb) ON COMMIT DROP
"""
_INSERT = """
    INSERT INTO calls (run_id, account_id, lead_id, phone, variables)
    SELECT r.id, r.account_id, n.lead_id, n.phone, n.variables
      FROM new_leads n CROSS JOIN (SELECT id, account_id FROM runs LIMIT 1) r
     ORDER BY position ON CONFLICT DO NOTHING
"""


def run(ground: Ground, report: Report, *, rounds: int, leads: int) -> None:
    peaks: list[float] = []
    with Ours(ground) as ours:
        ours.start_web()
        ours.post(1, 900_000)  # all is imported and connected
        turns = in_turn(
            rounds,
            {
                "ours": partial(_post, ours, leads, peaks),
                "COPY": partial(ours.while_stopped, partial(_copy, ours, leads)),
            },
        )
        figure = report.compare(
            f"POST of {leads:,} leads : COPY", turns["ours"], turns["COPY"], seconds=True
        )
        figure.more["per_thousand"] = "of leads"
        report.tell("most memory of one web process", "MiB", max(peaks))
        _two_at_once(report, ours, leads)


def body(leads: int, first: int = 0, name: str = "bench") -> bytes:
    """Write down a run whose start is a day away: nothing of it is dialled."""
    people = [
        {"lead_id": f"lead-{n}", "phone": phone, "variables": {"name": f"Name {n}", "n": n}}
        for n, phone in enumerate(phones(leads, first))
    ]
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))
    told = {"name": name, "twiml": "<Response><Say>Hello {{name}}</Say></Response>"}
    return json.dumps(told | {"start_at": later, "leads": people}).encode()


def _send(ours: Ours, content: bytes) -> float:
    url = f"{ours.base}/api/outbound/runs"
    headers = {"Authorization": f"Bearer {ours.key}", "Content_Type": "application/json"}
    request = wire.request("POST", url, content, **headers)
    replies = wire.send_all(ours.base, [request], 1, 202)
    assert not replies.unwanted
    return replies.seconds[0]


def _post(ours: Ours, leads: int, peaks: list[float]) -> Turn:
    ours.forget()
    content = body(leads)
    ours.ground.settle_down("ours")
    (web,) = ours.pids
    forget_peak(web)
    with ours.ground.metered(web) as meter:
        seconds = _send(ours, content)
    peaks.append(peak_mib(web))
    return Turn(leads, seconds, meter.cost)


def _copy(ours: Ours, leads: int) -> Turn:
    lines = "".join(
        f'{n}\tlead-{n}\t{phone}\t{{"n": {n}, "name": "Name {n}"}}\n'
        for n, phone in enumerate(phones(leads))
    )
    ours.do("TRUNCATE calls CASCADE")
    ours.ground.settle_down("ours")
    connection = ours.ground.connect("ours")
    connection.autocommit = False
    own = time.process_time()
    with ours.ground.metered() as meter, connection.cursor() as cursor:
        cursor.execute(_STAGE)
        cursor.copy_expert("COPY new_leads FROM STDIN", io.StringIO(lines))
        cursor.execute(_INSERT)
        assert cursor.rowcount == leads
        connection.commit()
    connection.close()
    return Turn(leads, meter.seconds, replace(meter.cost, own=time.process_time() - own))


def _two_at_once(report: Report, ours: Ours, leads: int) -> None:
    ours.forget()
    run = ours.post(10, 900_000)
    get = ours.get(f"/runs/{run}")
    bodies = [body(leads, n * leads, f"bench {n}") for n in range(2)]
    alone = _while(lambda: time.sleep(3), ours, get)
    (web,) = ours.pids
    forget_peak(web)
    took: list[float] = []

    def both() -> None:
        threads = [
            threading.Thread(target=lambda one=one: took.append(_send(ours, one))) for one in bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with watched_mib(web) as held:
        during = _while(both, ours, get)
    report.tell(f"two POSTs of {leads:,} leads at once, the slower", "s", max(took))
    report.tell("most memory of one web process, two at once", "MiB", peak_mib(web))
    report.tell("most memory of all web processes, two at once", "MiB", max(held))
    for share in (0.5, 0.99):
        for name, seconds in (("alone", alone), ("meanwhile", during)):
            what = f"GET run {name}, p{share * 100:.0f}"
            report.tell(what, "ms", percentile(seconds, share) * 1000, samples=len(seconds))


def _while(work: Callable[[], Any], ours: Ours, get: bytes) -> list[float]:
    """Ask 20 times a second, on two connections, as long as the work goes on."""
    over, found = threading.Event(), list[float]()

    def ask() -> None:
        line = wire.Line(ours.base)
        while not over.wait(0.1):
            found.append(line.timed(get, 200))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    work()
    over.set()
    for asker in askers:
        asker.join()
    say(f"  {len(found)} GETs")
    return found
