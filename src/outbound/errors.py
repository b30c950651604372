"""What can go wrong, as classes. Each says who is to blame and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field


class OutboundError(Exception):
    """The base of every error that Outbound raises on purpose."""


class ConfigError(OutboundError):
    """A setting is missing or malformed. One line: the variable, what is wrong, an example."""


class Unavailable(OutboundError):
    """A server that we need does not answer now. Asking again later may help.

    Args:
        detail: what is away, for the caller.
        retry_after: seconds after which asking again makes sense.
    """

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a request body.

    Attributes:
        pointer: a JSON pointer as a fragment, such as `#/leads/3/phone`.
        code: stable and short, for programs.
        detail: for people; never echoes the input.
    """

    pointer: str
    code: str
    detail: str


@dataclass
class Refused(OutboundError):
    """The caller asked for something that cannot be done.

    Attributes:
        code: the last part of the problem's URN, and its stable name.
        detail: what to change, for people; never echoes the input.
        status: the HTTP status that says the same.
        faults: for an invalid body, what is wrong where.
        extra: further members of the problem, such as `run_id`.
        retry_after: seconds, where asking again helps.
    """

    code: str
    detail: str
    status: int = 409
    faults: list[Fault] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.detail


def not_found(what: str) -> Refused:
    """Build the answer for an object that is missing, or another account's: the same for both."""
    return Refused("not_found", f"There is no such {what}.", status=404)


def invalid(faults: list[Fault], detail: str = "The body is not valid.") -> Refused:
    """Build the answer for a body that is JSON, yet not what the route takes."""
    return Refused("invalid", detail, status=422, faults=faults)
