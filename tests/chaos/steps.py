"""Every point at which a process of ours can die on a call's way, by the protocol's step.

The numbers are those of docs/protocol.md, "The ten steps".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One point.

    Attributes:
        number: of the step in the protocol.
        process: which command of `outbound` dies.
        at: module:function.
        when: before or after the function, or the first COMMIT in it.
        scene: what brings a process there; a function of test_every_step.
        about: the sweep, where one function does them all.
        parent: whether the web server's master dies as well.
    """

    number: int
    process: str
    at: str
    when: str
    scene: str = "dial"
    about: str | None = None
    parent: bool = False

    @property
    def name(self) -> str:
        """For tables, and as the test's id."""
        at = self.at.removeprefix("outbound.")
        about = f"[{self.about}]" if self.about else ""
        also = " and its master" if self.parent else ""
        return f"{self.number} {self.process}{also} {self.when} {at}{about}"


FUNCTION = ("before", "after")
COMMIT = ("before-commit", "after-commit")
BOTH = ("before", "before-commit", "after-commit", "after")

WEB = (
    (1, "intake:create", BOTH, "dial"),
    (2, "intake:_ring", FUNCTION, "dial"),
    (2, "doorbell:Doorbell._enqueue", FUNCTION, "dial"),
    (7, "api.webhooks:receive", FUNCTION, "dial"),
    (7, "api.webhooks:_verify", FUNCTION, "dial"),
    (7, "settling:apply", FUNCTION, "dial"),
    (7, "recording:Together.record", FUNCTION, "dial"),
    (7, "recording:commit", COMMIT, "dial"),
    (8, "recording:follow_up", FUNCTION, "dial"),
    (8, "doorbell:Doorbell.ring", FUNCTION, "last_lead"),
    (9, "runs:advance", BOTH, "last_lead"),
    (9, "runs:advance_in", FUNCTION, "last_lead"),
)
WORKER = (
    (3, "dialer:Dialer.dial", FUNCTION, "dial"),
    (3, "claims:claim", BOTH, "dial"),
    (3, "claims:_in_transaction", FUNCTION, "dial"),
    (4, "dialer:Dialer._place", FUNCTION, "dial"),
    (4, "dialer:Dialer._ask", FUNCTION, "dial"),
    (5, "carriers.twilio:Twilio.place", FUNCTION, "unheard"),
    # Before it the request is written, and nothing of the answer is read.
    (5, "http.client:HTTPConnection.getresponse", FUNCTION, "unheard"),
    (6, "recorder:Recorder._write", BOTH, "unheard"),
    (8, "recording:follow_up", FUNCTION, "dial"),
    (9, "runs:advance", BOTH, "refused"),
    (9, "runs:end_queued", BOTH, "cancel"),
    (9, "runs:_end_some", FUNCTION, "cancel"),
    (10, "unknowns:look_up_due", BOTH, "look_up"),
    (10, "unknowns:_ask", FUNCTION, "look_up"),
    (10, "unknowns:_write", BOTH, "look_up"),
    (10, "recording:record", BOTH, "look_up"),
    (10, "hanging_up:hang_up_due", BOTH, "hang_up"),
    (10, "hanging_up:_ask", FUNCTION, "hang_up"),
)
LEADER = (
    (10, "reconciler.leader:Reconciler._become_leader", BOTH, "elect"),
    (10, "reconciler.leader:Reconciler._with_work", FUNCTION, "dial"),
    (10, "reconciler.leader:Lock.resign", FUNCTION, "resign"),
)
SWEEP_SCENES = {
    "stale_claims": "die_sending",
    "redial_unknowns": "redial",
    "give_phones_back": "give_phones_back",
    "start_scheduled": "start_later",
    "end_runs": "unended",
    "ring_due": "unrung",
    "ring_ending": "cancel_unrung",
    "ring_look_ups": "look_up",
    "ring_hang_ups": "hang_up_unrung",
    "purge_keys": "old_key",
}


@dataclass(frozen=True)
class Pause:
    """One point at which a process freezes for longer than it is trusted; None: at random.

    Attributes:
        checks_after: whether every sender looks at the lease between here and the carrier. At
            Dialer._place only the one that froze does: another may just have looked.
    """

    process: str
    at: str | None = None
    when: str = "before"
    about: str | None = None
    checks_after: bool = False

    @property
    def name(self) -> str:
        """For tables, and as the test's id."""
        at = (self.at or "").removeprefix("outbound.")
        where = f"{self.when} {at}" if at else "at random"
        return f"frozen {self.process} {where}" + (f"[{self.about}]" if self.about else "")


PAUSES = (
    Pause("worker", "outbound.claims:claim", "before-commit", checks_after=True),
    Pause("worker", "outbound.claims:claim", "after-commit", checks_after=True),
    Pause("worker", "outbound.dialer:Dialer._place"),
    Pause("worker", "outbound.dialer:Dialer._ask"),
    # As late as can be: the head is composed, and no byte of it is written.
    Pause("worker", "http.client:HTTPConnection.endheaders"),
    Pause("worker", "http.client:HTTPConnection.getresponse"),
    Pause("worker", "outbound.recorder:Recorder._write"),
    Pause("worker", "outbound.recorder:Recorder._write", "before-commit"),
    Pause("worker"),
    Pause("reconciler", "outbound.reconciler.sweeps:run_once", "before", "stale_claims"),
    Pause("reconciler", "outbound.reconciler.sweeps:run_once", "before-commit", "stale_claims"),
    Pause("reconciler", "outbound.reconciler.leader:Reconciler._with_work", "after"),
    Pause("reconciler"),
)


def _steps() -> Iterator[Step]:
    for process, rows in (("web", WEB), ("worker", WORKER), ("reconciler", LEADER)):
        for number, at, whens, scene in rows:
            path = at if at.startswith("http.") else f"outbound.{at}"
            for when in whens:
                yield Step(number, process, path, when, scene)
    for when in COMMIT:
        yield Step(1, "web", "outbound.intake:create", when, parent=True)
        yield Step(7, "web", "outbound.recording:commit", when, parent=True)
    for about, scene in SWEEP_SCENES.items():
        for when in BOTH:
            at = "outbound.reconciler.sweeps:run_once"
            yield Step(10, "reconciler", at, when, scene, about)


STEPS = tuple(_steps())
