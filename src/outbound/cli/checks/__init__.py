"""The checks of `outbound doctor`: each looks at one thing, and says how to mend it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        result: `ok`; `info`, `warn`: it works, and could be better; `fail`: it does not work.
        mend: what to do about it; told for whatever is not ok.
    """

    check: str
    result: str
    detail: str
    mend: str = ""


def judge(check: str, detail: str, mend: str, *, fine: bool, otherwise: str = "fail") -> Finding:
    """Make the finding of a check that is either fine or not."""
    return Finding(check, "ok", detail) if fine else Finding(check, otherwise, detail, mend)
