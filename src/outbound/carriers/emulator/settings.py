"""The emulator's settings, with the credentials to develop against."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .behaviours import DEFAULT_MIX, PhoneBook, check_mix
from .errors import EmulatorError
from .faults import parse_faults

if TYPE_CHECKING:
    from collections.abc import Mapping

DEV_ACCOUNT_SID: Final = "AC" + "0e" * 16
DEV_AUTH_TOKEN: Final = "emulator0auth0token0for0dev0only"  # noqa: S105 - public on purpose

_NOT_NEGATIVE: Final = (
    "port",
    "queue_seconds",
    "ring_seconds",
    "talk_seconds",
    "callback_retry_delay",
    "callback_total_seconds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorSettings:
    """How an emulator runs.

    Attributes:
        port: Where to listen; 0 picks a free port.
        host: The address to listen at.
        ledger: The append-only file of all calls; replayed if it exists.
        account_sid: The one account there is; the user name of Basic auth.
        auth_token: Its password, and the key that signs the callbacks.
        caller_ids: The numbers a call may come from; none given, any is taken.
        seed: Seeds the mix, the spread and the faults.
        queue_seconds: From a call's acceptance to its dialling.
        ring_seconds: From the dialling's start to the answer.
        talk_seconds: From the answer to the end.
        spread: How far ring and talk times vary (0 to 1), by seed, number and count.
        mix: Weight by behaviour, for the numbers that no ending decides.
        endings: Whether the numbers' documented endings count.
        faults: The faults to begin with.
        callback_retry_delay: Seconds to a callback's first retry; doubled each time.
        callback_total_seconds: A callback is given up so long after its first try.
        callback_connections: How many callbacks are on the wire at once, at most.
    """

    port: int = 4010
    host: str = "127.0.0.1"
    ledger: Path = Path("emulator-ledger.ndjson")
    account_sid: str = DEV_ACCOUNT_SID
    auth_token: str = DEV_AUTH_TOKEN
    caller_ids: tuple[str, ...] = ()
    seed: int = 0
    queue_seconds: float = 0.0
    ring_seconds: float = 1.0
    talk_seconds: float = 2.0
    spread: float = 0.0
    mix: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_MIX))
    endings: bool = True
    faults: Mapping[str, float] = field(default_factory=dict)
    callback_retry_delay: float = 0.4
    callback_total_seconds: float = 15.0
    callback_connections: int = 64

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            EmulatorError: A value is out of its range; the text names it.
        """
        check_mix(self.mix)
        parse_faults(dict(self.faults))
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise EmulatorError(f"{name} must be 0 or more")
        if not 0 <= self.spread <= 1:
            raise EmulatorError("spread must be from 0 to 1")
        if self.callback_connections < 1:
            raise EmulatorError("callback_connections must be 1 or more")

    def phone_book(self) -> PhoneBook:
        """Build what decides how each phone meets its calls."""
        return PhoneBook(
            mix=self.mix,
            endings=self.endings,
            seed=self.seed,
            ring=self.ring_seconds,
            talk=self.talk_seconds,
            spread=self.spread,
        )
