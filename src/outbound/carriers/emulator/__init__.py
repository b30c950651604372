"""A Twilio-shaped carrier to develop and test against, in a process of its own.

It takes calls over Twilio's REST API, keeps a ledger of them, tells of them by signed status
callbacks, and calls nobody. ``behaviours`` has the table of what each number does, ``faults``
the table of what can be made to go wrong.

What it does not do: it never fetches a call's ``Url`` and runs no TwiML; there is no
``ApplicationSid``; a call's events are there at once, not 15 minutes after its end; a repeated
create makes a second call, as at Twilio.

After a restart the ledger is replayed and unfinished calls go on: what fell due meanwhile happens
at once. A callback that was on its way when the process ended is not sent again. The counts of
refused creates and of faults begin anew; all other counts are rebuilt.

The routes under ``/_emulator`` need no login: keep it on a loopback address.
"""

from __future__ import annotations

from .errors import EmulatorError
from .server import serve
from .settings import DEV_ACCOUNT_SID, DEV_AUTH_TOKEN, EmulatorSettings

__all__ = ["DEV_ACCOUNT_SID", "DEV_AUTH_TOKEN", "EmulatorError", "EmulatorSettings", "serve"]
