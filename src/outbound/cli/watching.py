"""Watching a run: a live bar on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from outbound.cli.client import Answer, Away, Changed, Client, not_ours
from outbound.cli.output import harmless, is_screen, show

POLL_SECONDS = 0.5
READ_SECONDS = 5
OLD_SECONDS = 3
RATE_SECONDS = 10
"""How far back `now` looks: longer smooths, shorter jumps."""
REFRESHES = 4
ENDED = ("completed", "cancelled", "expired")
_PARTS = ("queued", "in_progress", "completed", "failed", "cancelled", "unknown")
_TIMES = ("started_at", "ended_at", "eta")
_KINDS: dict[str, Any] = {
    **dict.fromkeys((*_PARTS, "total_leads", "attempts"), int),
    **dict.fromkeys(("name", "last_error", *_TIMES), str | None),
    **dict.fromkeys(("run_id", "status"), str),
    "outcomes": dict,
}


def watch(client: Client, run_id: str, *, as_json: bool = False) -> dict[str, Any]:
    """Follow a run until it has ended, or all that is left of it is unknown.

    Returns:
        The run as it is then.

    Raises:
        CommandError: there is no such run, or the API does not answer the first request.
    """
    seen = Seen(client, run_id)
    console = Console(highlight=False)
    if as_json:
        for _ in seen.follow():
            pass
        show(seen.run, as_json=True)
        return seen.run
    if is_screen(console):
        _draw(seen, console)
    else:
        _lines(seen)
    if seen.run["unknown"]:
        click.echo(what_to_do(seen.run))
    return seen.run


@dataclass
class Seen:
    """What we last heard of a run, when, and how fast it went.

    Attributes:
        run: the run as the API showed it.
        asked_at: when it was asked for, by our monotonic clock: its numbers are no younger.
        server_at: when it was answered, by the server's clock.
        why_away: what the last request met, None if it was answered.
    """

    client: Client
    run_id: str
    run: dict[str, Any] = field(default_factory=dict)
    asked_at: float = 0.0
    server_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    why_away: str | None = None
    _attempts: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def age(self) -> float:
        """How old the numbers are, in seconds."""
        return time.monotonic() - self.asked_at

    @property
    def is_old(self) -> bool:
        """Whether the numbers must not be shown as what is now."""
        return self.age > OLD_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, or waits for a person alone."""
        under_way = self.run["queued"] + self.run["in_progress"]
        return self.run["status"] in ENDED or (not under_way and self.run["unknown"] > 0)

    def follow(self) -> Iterator[None]:
        """Look again and again, yielding after each look, until there is nothing to wait for."""
        etag = self._look("")
        yield
        while not self.is_over:
            time.sleep(POLL_SECONDS)
            try:
                # The ETag does not cover the ETA: one that has passed must be asked for anew.
                etag = self._look("" if self.is_late else etag)
                self.why_away = None
            except Away as error:
                self.why_away = error.message
            yield

    def _look(self, etag: str) -> str:
        asked_at = time.monotonic()
        found = self.client.get_changed(f"/runs/{self.run_id}", etag, READ_SECONDS)
        self._take(found)
        self.asked_at = asked_at
        self._attempts.append((asked_at, self.run["attempts"]))
        while len(self._attempts) > 2 and self._attempts[1][0] <= asked_at - RATE_SECONDS:
            self._attempts.popleft()
        return found.etag

    def _take(self, found: Changed) -> None:
        if found.body is not None:
            _check(found.body)
            self.run = found.body
        self.server_at = found.at

    @property
    def rate_now(self) -> float | None:
        """Calls a second in the last seconds, None as long as that cannot be told."""
        (first, before), (last, after) = self._attempts[0], self._attempts[-1]
        return max(0, after - before) / (last - first) if last - first >= 1 else None

    @property
    def rate_on_average(self) -> float | None:
        """Calls a second since the run started, None as long as that cannot be told."""
        started, ended = _time(self.run["started_at"]), _time(self.run["ended_at"])
        if started is None:
            return None
        seconds = ((ended or self.server_at) - started).total_seconds()
        # The server's clock is told in whole seconds.
        return float(self.run["attempts"] / seconds) if seconds >= 1 else None

    @property
    def time_left(self) -> timedelta | None:
        """How long it may take, by the server's guess and clock; None if it does not guess."""
        eta = _time(self.run["eta"])
        return eta - self.server_at if eta else None

    @property
    def is_late(self) -> bool:
        """Whether the end that the server guessed has passed."""
        return self.time_left is not None and self.time_left <= timedelta(0)


def _check(run: Answer) -> None:
    """Refuse another server's JSON here, where it can be named, and not as a bug of ours."""
    for name, kinds in _KINDS.items():
        if not isinstance(run[name], kinds):
            raise not_ours(run.url, f"its {name!r} is not a run's")
    for name in _TIMES:
        try:
            _time(run[name])
        except ValueError:
            raise not_ours(run.url, f"its {name!r} is no time") from None


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value).astimezone(UTC) if value else None


def _draw(seen: Seen, console: Console) -> None:
    looks = seen.follow()
    next(looks)
    # Drawn by a thread of its own, so that the numbers grow old also while a request hangs.
    with Live(console=console, get_renderable=lambda: picture(seen), refresh_per_second=REFRESHES):
        for _ in looks:
            pass


def _lines(seen: Seen) -> None:
    said = ""
    for _ in seen.follow():
        line = summary(seen.run)
        if seen.is_old:
            line = f"the API is away; these numbers are old:  {line}"
        if line != said:
            click.echo(line)
        said = line


def summary(body: dict[str, Any]) -> str:
    """Say a run's numbers in one line."""
    parts = "  ".join(f"{name} {body[name]}" for name in _PARTS)
    error = f"  ! {harmless(body['last_error'])}" if body.get("last_error") else ""
    return f"{body['status']}  {parts}{error}"


def what_to_do(run: dict[str, Any]) -> str:
    """Say what a person can do about the calls that nobody knows of."""
    run_id, count = run["run_id"], run["unknown"]
    calls = "1 call is unknown" if count == 1 else f"{count} calls are unknown"
    return (
        f"{calls}: nobody knows yet whether the carrier has placed it. Its word, or yours, settles"
        " it; look at the carrier's console, then:\n"
        f"  outbound calls list {run_id} --state unknown\n"
        f"  outbound calls resolve {run_id} CALL_ID --decision placed --outcome answered\n"
        f"  outbound calls resolve {run_id} CALL_ID --decision not_placed|redial"
    )


def picture(seen: Seen) -> Group:
    """Draw a run; its own words are Text, since `[x]` in a name is no mark-up of ours."""
    run, old = seen.run, seen.is_old
    done = run["total_leads"] - run["queued"] - run["in_progress"]
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True, min_width=9)
    drawn.add_column(overflow="fold")
    drawn.add_row("run", Text(harmless(run["name"] or run["run_id"]), style="bold"))
    drawn.add_row("status", f"{run['status']}, {round(seen.age)} s ago" if old else run["status"])
    drawn.add_row("done", _bar(done, run["total_leads"], old=old))
    drawn.add_row("calls", _counts((name, run[name]) for name in _PARTS))
    drawn.add_row("outcomes", _counts(run["outcomes"].items()))
    if not old:
        for label, value in _speed(seen):
            drawn.add_row(label, value)
    if run["last_error"]:
        drawn.add_row("error", Text(harmless(run["last_error"]), style="red"))
    return Group(drawn, _age(seen))


def _bar(done: int, total: int, *, old: bool) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(max_width=20)
    row.add_column(no_wrap=True)
    style = "dim" if old else "green"
    # Rich draws a moving bar for a total of nothing.
    bar = ProgressBar(max(total, 1), done, complete_style=style, finished_style=style)
    row.add_row(bar, f"{done} of {total}")
    return row


def _counts(counts: Iterable[tuple[str, int]]) -> Columns:
    # Columns, since a text breaks between a name and its number where the terminal is narrow.
    told = [Text(f"{harmless(name)} {count}", no_wrap=True) for name, count in counts]
    return Columns(told, padding=(0, 2))


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def _speed(seen: Seen) -> Iterator[tuple[str, str]]:
    average = f"{_rate(seen.rate_on_average)} on average"
    if seen.run["status"] in ENDED:
        yield "calls/s", average
    else:
        yield "calls/s", f"{_rate(seen.rate_now)} now  {average}"
        yield "time left", _left(seen)


def _left(seen: Seen) -> str:
    if (left := seen.time_left) is None:
        return "-"
    seconds = max(0, round(left.total_seconds()))
    at = datetime.fromisoformat(seen.run["eta"]).astimezone()
    when = f"{at:%H:%M:%S}" if seconds < 12 * 3600 else f"{at:%Y-%m-%d %H:%M}"
    return f"{timedelta(seconds=seconds)} (until {when})"


def _age(seen: Seen) -> Text:
    if not seen.is_old:
        return Text(f"these numbers are {round(seen.age)} s old", style="dim")
    why = harmless(seen.why_away or "the API has not answered since")
    return Text(f"NOT CURRENT: these numbers are {round(seen.age)} s old; {why}", style="bold red")
