"""The log contract: one JSON object a line on stdout, from every process and every library.

Every line has `timestamp`, `level`, `event`, `worker_id` and `consumer_source`. Phone numbers
are masked to their last two digits, and secrets never pass.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from functools import lru_cache
from select import PIPE_BUF
from typing import Any, TextIO
from uuid import UUID

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from outbound import as_json
from outbound.config import Settings

# With a plus it is a phone, whatever stands around it.
E164 = re.compile(r"(?:\+|%2B)\d{5,13}(?=\d\d(?!\d))", re.IGNORECASE)
# Without one it must be no part of a time, a decimal number, an id, or a port.
BARE = re.compile(r"(?:(?<![\w.:+-])|(?<=tel:)|(?<=sip:))\d{5,13}(?=\d\d(?![\w-]|:\d|\.\d))")
SECRET_NAMES = re.compile(
    r"(authorization|cookie|token|secret|password|signature|api_key)", re.IGNORECASE
)
SECRETS = re.compile(
    r"(?<![a-z0-9])(ob_[a-z0-9_-]{4})[a-z0-9_-]+"
    r"|(://[^:/@\s]*:)[^\s\"']+(?=@)"
    r"|\b((?:bearer|basic) +)[^\s\"',]+"
    r"|((?:password|token|secret|signature)=)[^\s\"'&]+",
    re.IGNORECASE,
)
PLAIN = frozenset(
    (
        *("timestamp", "level", "event", "worker_id", "consumer_source", "account_id", "run_id"),
        *("call_id", "attempt_id", "carrier_call_id", "request_id", "fence", "epoch", "port"),
    )
)

_process: dict[str, Any] = {}


def get(name: str) -> FilteringBoundLogger:
    """Return a module's logger."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def set_up(settings: Settings, consumer_source: str, stream: TextIO | None = None) -> None:
    """Send this process's records, and its libraries', through one pipeline to stdout.

    Args:
        settings: level, format, and whether phones are shown whole.
        consumer_source: `api`, `dramatiq_worker`, `reconciler` or `cli`; a callback's lines
            bind `webhook` over it.
        stream: for a command whose stdout is its answer, where to send them instead.
    """
    own = (settings.twilio_auth_token, settings.api_key)
    _process.update(settings=settings, consumer_source=consumer_source, own=list(filter(None, own)))
    _process["stream"] = stream = stream or sys.stdout
    _mask_again.cache_clear()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render = _render if settings.log_format == "json" else _console()
    ours: list[Processor] = [_who, _traceback, _lines(render)]
    # Past the standard library, in which a line costs twice as much.
    structlog.configure(
        processors=[_filter, *shared, *ours],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _name_foreign],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ours],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    _tame_libraries()


class _Lines:
    """Writes lines whole. As with the library's handlers, one that cannot be written ends nothing.

    It has no lock: a fork could take it along, held. One write of a text stream is one piece.
    """

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, lines: str) -> None:
        piece = ""
        for line in lines.splitlines(keepends=True):
            # A pipe takes so much in one piece; other processes may write to it, too.
            if piece and len(piece) + len(line) >= PIPE_BUF:
                _write(piece)
                piece = ""
            piece += line
        _write(f"{piece}\n")

    debug = info = warning = error = critical = msg


def _write(lines: str) -> None:
    stream = _process["stream"]
    try:
        stream.write(lines)
        stream.flush()
    except (OSError, ValueError):  # nobody reads any more, or it is closed
        pass


_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}


def _filter(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if _LEVELS[method] < logging.root.level:
        raise structlog.DropEvent
    return event


def _tame_libraries() -> None:
    logging.captureWarnings(True)
    for name in ("gunicorn.error", "gunicorn.access", "dramatiq", "sqlalchemy", "alembic"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
    # These tell of every connection, request and migration check, with phone numbers in URLs.
    for name in ("urllib3", "twilio", "aiohttp", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # At debug it tells every request's path.
    gunicorn = logging.getLogger("gunicorn")
    gunicorn.setLevel(max(logging.INFO, logging.getLogger().level))


def _name_foreign(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Give another library's sentence a stable event name; the sentence becomes `message`."""
    record = event.get("_record")
    source = record.name.split(".")[0] if record else "library"
    event["message"] = event.get("event")
    event["event"] = f"{source}_log"
    event["logger"] = record.name if record else source
    if "each" in event:  # theirs, not our mappings
        event["each_"] = event.pop("each")
    return event


def _who(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    settings = _process["settings"]
    event.setdefault("consumer_source", _process["consumer_source"])
    event["worker_id"] = settings.worker_id
    return event


_format_exception = structlog.processors.ExceptionRenderer(
    # Local variables hold secrets and people's data.
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
)


def _traceback(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    event = _format_exception(logger, name, event)
    for error in event["exception"] if isinstance(event.get("exception"), list) else ():
        _shorten(error)
    return event


def _shorten(error: dict[str, Any]) -> None:
    """Keep an error's first line: after it, a database and a validator show the data itself."""
    error["exc_value"] = str(error["exc_value"]).partition("\n")[0]
    error["exc_notes"] = []
    for group in error["exceptions"]:
        for inner in group:
            _shorten(inner)


def _lines(render: Processor) -> Processor:
    """Make a line of an event, or of each mapping in its `each`, with what they have in common.

    A batch says what is the same of all its calls once, and so costs little more than one of them.
    """

    def lines(logger: WrappedLogger, name: str, event: EventDict) -> str:
        each: list[EventDict] = event.pop("each", None) or [{}]
        common = _redact(event)
        return "\n".join(str(render(logger, name, {**common, **_redact(one)})) for one in each)

    return lines


def _redact(event: EventDict) -> EventDict:
    for key, value in event.items():
        if key not in PLAIN:
            event[key] = "***" if _names_secret(key) else _clean(value)
    return event


@lru_cache(maxsize=1024)
def _names_secret(key: str) -> bool:
    """Tell whether a name that stands in our code is one of a secret."""
    return bool(SECRET_NAMES.search(key))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, MutableMapping):
        return {
            mask(str(k)): "***" if SECRET_NAMES.search(str(k)) else _clean(v)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_clean(one) for one in value]
    return mask(str(value))  # an error or a URL is text only once it is written


def mask(value: str) -> str:
    """Hide secrets, and all of a phone number but its last two digits."""
    return _mask_again(value) if len(value) < 200 else hide(value, bare=True)


@lru_cache(maxsize=4096)
def _mask_again(value: str) -> str:
    """Most short texts are a verdict, an outcome or an error that came before."""
    return hide(value, bare=True)


def hide(value: str, *, bare: bool = False) -> str:
    """Hide secrets, and phone numbers that begin with a plus.

    Args:
        value: a text for people.
        bare: also what has the digits of a phone; where counts are told, it may be one.
    """
    value = SECRETS.sub(lambda found: f"{found[found.lastindex or 0]}***", value)
    for secret in _process.get("own", ()):
        value = value.replace(secret, "***")
    if _process and _process["settings"].log_full_phones:
        return value
    value = E164.sub("*" * 6, value)
    return BARE.sub("*" * 6, value) if bare else value


def _render(_: WrappedLogger, __: str, event: EventDict) -> str:
    return as_json.ascii_dumps(event)


def _console() -> Processor:
    render = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())

    def lines(logger: WrappedLogger, name: str, event: EventDict) -> str:
        ids = {key: str(value) for key, value in event.items() if isinstance(value, UUID)}
        return str(render(logger, name, {**event, **ids}))

    return lines
