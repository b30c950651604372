"""Settings, read once from the environment. No other module reads it.

A missing or malformed variable raises ConfigError with one line that names it, says what is
wrong, and gives an example.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from outbound.errors import ConfigError

TWILIO_API = "https://api.twilio.com"


@dataclass(frozen=True)
class Settings:
    """Everything that the environment decides. Times are in seconds.

    Attributes:
        senders: calls that one worker process has on the wire at once. Its death leaves no more
            unknown than these and the answers that it had not written yet.
        carrier_timeout: how long the carrier may take to answer a create.
        record_margin: how long writing that answer may take.
        lease: how long a claim is trusted; at least timeout + margin + 1 s.
        db_pool: connections that one process may open.
    """

    database_url: str | None = None
    redis_url: str | None = None
    public_base_url: str | None = None
    twilio_account_sid: str | None = None
    twilio_auth_token: str | None = None
    twilio_api_base_url: str = TWILIO_API
    port: int = 8000
    carrier: str = "twilio"
    log_level: str = "INFO"
    log_format: str = "json"
    log_full_phones: bool = False
    senders: int = 8
    carrier_timeout: float = 8.0
    record_margin: float = 5.0
    lease: float = 15.0
    worker_threads: int = 4
    shutdown_seconds: float = 20.0
    web_workers: int = 2
    web_threads: int = 16
    db_pool: int = 16
    private_answer_urls: bool = False
    metrics_port: int | None = None
    instance: str = ""
    api_url: str | None = None
    api_key: str | None = None

    @property
    def worker_id(self) -> str:
        """The process, as `host:pid`: computed, since a fork must not keep its parent's."""
        return f"{self.instance or _hostname()}:{os.getpid()}"


_hostname = cache(socket.gethostname)


def _text(value: str) -> str:
    return value


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        wrong = f"must be a URL that starts with {' or '.join(schemes)}://"
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ValueError(f"{wrong}, with a port from 0 to 65535") from None
        if parts.scheme not in schemes or not (parts.netloc or parts.path):
            raise ValueError(wrong)
        if parts.netloc.count("@") > 1:
            # Read as part of the host's name, half a password would be told in every error.
            raise ValueError(f"{wrong}, with every @ of a password written as %40")
        return value.rstrip("/") if schemes[0].startswith("http") else value

    return parse


def _postgres(value: str) -> str:
    parsed = _url("postgresql", "postgres", "postgresql+psycopg2")(value)
    # Both would come out of the driver, as an error that names no variable.
    if not unquote(parsed).isprintable():
        raise ValueError("must not hold control characters, such as %00")
    ports = parse_qs(urlsplit(parsed).query).get("port", [])
    if not set("".join(ports)) <= set("0123456789,"):
        raise ValueError("must have a number as its port")
    return parsed


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value.isascii() or not value.isdecimal() or not low <= int(value) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(value)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        wrong = f"must be a number of seconds from {low:g} to {high:g}"
        try:
            number = float(value)
        except ValueError:
            raise ValueError(wrong) from None
        if not math.isfinite(number) or not low <= number <= high:
            raise ValueError(wrong)
        return number

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        for word in words:
            if value.lower() == word.lower():
                return word
        raise ValueError(f"must be one of {', '.join(words)}")

    return parse


def _flag(value: str) -> bool:
    return _choice("true", "false")(value) == "true"


_HTTP = _url("https", "http")

VARIABLES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "database_url": ("DATABASE_URL", _postgres, "postgresql://outbound:secret@db:5432/outbound"),
    "redis_url": ("REDIS_URL", _url("redis", "rediss", "unix"), "redis://redis:6379/0"),
    "public_base_url": ("PUBLIC_BASE_URL", _HTTP, "https://outbound.example.com"),
    "twilio_account_sid": ("TWILIO_ACCOUNT_SID", _text, "AC0123456789abcdef0123456789abcdef"),
    "twilio_auth_token": ("TWILIO_AUTH_TOKEN", _text, "the account's primary auth token"),
    "twilio_api_base_url": ("TWILIO_API_BASE_URL", _HTTP, TWILIO_API),
    "port": ("PORT", _whole(1, 65535), "8000"),
    "carrier": ("OUTBOUND_CARRIER", _text, "twilio, or package.module:factory"),
    "log_level": (
        "OUTBOUND_LOG_LEVEL",
        _choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
        "INFO",
    ),
    "log_format": ("OUTBOUND_LOG_FORMAT", _choice("json", "console"), "json"),
    "log_full_phones": ("OUTBOUND_LOG_FULL_PHONES", _flag, "false"),
    "senders": ("OUTBOUND_SENDERS", _whole(1, 500), "8"),
    "carrier_timeout": ("OUTBOUND_CARRIER_TIMEOUT_SECONDS", _seconds(0.05, 60), "8"),
    "record_margin": ("OUTBOUND_RECORD_MARGIN_SECONDS", _seconds(0.05, 60), "5"),
    "lease": ("OUTBOUND_LEASE_SECONDS", _seconds(0.5, 300), "15"),
    "worker_threads": ("OUTBOUND_WORKER_THREADS", _whole(1, 64), "4"),
    "shutdown_seconds": ("OUTBOUND_SHUTDOWN_SECONDS", _seconds(0, 600), "20"),
    "web_workers": ("OUTBOUND_WEB_WORKERS", _whole(1, 64), "2"),
    "web_threads": ("OUTBOUND_WEB_THREADS", _whole(1, 128), "16"),
    "db_pool": ("OUTBOUND_DB_POOL", _whole(2, 500), "16"),
    "metrics_port": ("OUTBOUND_METRICS_PORT", _whole(1, 65535), "9464"),
    "private_answer_urls": ("OUTBOUND_PRIVATE_ANSWER_URLS", _flag, "false"),
    "instance": ("OUTBOUND_INSTANCE", _text, "worker-7 (default: the host's name)"),
    "api_url": ("OUTBOUND_URL", _HTTP, "https://outbound.example.com"),
    "api_key": ("OUTBOUND_API_KEY", _text, "ob_…, as `outbound key create` printed it"),
}


def read(*required: str, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        required: names of Settings attributes that this process cannot do without.
        environ: where to read from.

    Raises:
        ConfigError: one line: the variable, what is wrong, an example.
    """
    values: dict[str, Any] = {}
    for attribute in (field.name for field in fields(Settings)):
        name, parse, example = VARIABLES[attribute]
        raw = environ.get(name, "").strip()
        if raw:
            try:
                values[attribute] = parse(raw)
            except ValueError as wrong:
                raise ConfigError(f"{name} {wrong}, for example {name}={example}") from None
        elif attribute in required:
            raise ConfigError(f"{name} is not set, for example {name}={example}")
    settings = Settings(**values)
    _check_lease(settings)
    return settings


def _check_lease(settings: Settings) -> None:
    # A lease that ends while an answer may still be written lets a sweep call an attempt
    # unknown under the hands of the worker that is recording it.
    needed = settings.carrier_timeout + settings.record_margin
    slack = min(1.0, settings.lease / 15)
    if settings.lease < needed + slack:
        raise ConfigError(
            "OUTBOUND_LEASE_SECONDS must be at least OUTBOUND_CARRIER_TIMEOUT_SECONDS + "
            f"OUTBOUND_RECORD_MARGIN_SECONDS + {slack:g}, for example "
            f"OUTBOUND_LEASE_SECONDS={needed + 2:g}"
        )
