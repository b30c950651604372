"""A browser, and one system for all tests of this tier; each test has an account of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from outbound import accounts
from processes import Stack, World, free_port, wait_until

BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
PATIENCE = 30_000  # milliseconds; the machine may be busy


def _why_not() -> str:
    if importlib.util.find_spec("playwright") is None:
        return "the browser tests need Playwright: pip install playwright (no browser of its own)"
    if not _browser_path():
        return "the browser tests need a Chromium: apt-get install chromium, or set CHROMIUM"
    return ""


def _browser_path() -> str | None:
    given = os.environ.get("CHROMIUM")
    return given or next(filter(None, map(shutil.which, BROWSERS)), None)


# For a file, not for the session: Playwright keeps an event loop running, which other tests of the
# same process could not bear.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if why := _why_not():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=_browser_path(),
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP *.example 127.0.0.1"],
        )
        yield started
        started.close()


@dataclass
class Site:
    """The whole system, and accounts to look at it with."""

    world: World
    engine: Engine
    url: str = ""
    others: list[Any] = field(default_factory=list)

    def account(self, name: str | None = None, **fields: Any) -> Account:
        key = self.world.account(self.engine, **fields)
        if name:
            with self.engine.begin() as connection:
                known = {"name": f"{name} {uuid.uuid4().hex[:3]}", "key": key[-4:]}
                connection.execute(text(_RENAME), known)
        with self.engine.connect() as connection:
            caller = accounts.authenticate(connection, key, "tests")
        assert caller
        return Account(self, key, caller)

    def another_web(self) -> tuple[Any, str]:
        """A web process that a test may kill; returns it and its address."""
        port = free_port()
        process = self.world.stack.start("web", PORT=str(port), OUTBOUND_WEB_WORKERS="1")
        url = f"http://127.0.0.1:{port}"
        wait_for_web(self.world, url)
        return process, url


def wait_for_web(world: World, url: str) -> None:
    def is_ready() -> bool:
        try:
            return world.http.get(f"{url}/health/ready", timeout=2).status_code == 200
        except OSError:
            return False

    wait_until(is_ready, 60, url)


_RENAME = """
    UPDATE accounts SET name = :name
     WHERE id = (SELECT account_id FROM api_keys WHERE hint = :key ORDER BY id DESC LIMIT 1)
"""


@dataclass
class Account:
    site: Site
    key: str
    caller: accounts.Caller

    def key_of(self, role: str) -> str:
        with self.site.engine.begin() as connection:
            return accounts.create_key(connection, self.caller.account_id, role, role)[1]

    def run(self, phones: list[str], **fields: Any) -> str:
        return self.site.world.post_run(self.key, phones, **fields)

    def ask(self, method: str, path: str, **known: Any) -> Any:
        return self.site.world.ask(method, path, self.key, **known)


@pytest.fixture(scope="module")
def site(browser, postgres_url, template, redis_server_url, tmp_path_factory) -> Iterator[Site]:
    """All processes, on a database of their own; calls ring and talk for a moment."""
    server = make_url(postgres_url).set(drivername="postgresql+psycopg2")
    admin = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    name = f"outbound_browser_{uuid.uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    number = 8 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    redis_url = urlsplit(redis_server_url)._replace(path=f"/{number}").geturl()
    redis.Redis.from_url(redis_url).flushdb()
    url = server.set(database=name).render_as_string(hide_password=False)
    stack = Stack(
        {
            "DATABASE_URL": url,
            "REDIS_URL": redis_url,
            "PUBLIC_BASE_URL": "http://127.0.0.1:8000",
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": "test-token-of-the-emulator",
        }
    )
    ledger = tmp_path_factory.mktemp("ledger") / "ledger.ndjson"
    world, engine = World(stack, ledger), create_engine(url, poolclass=NullPool)
    world._emulator.remove("--no-endings")
    try:
        world.start("--ring-seconds", "0.3", "--talk-seconds", "1.5", workers=1)
        yield Site(world, engine, world.base)
    finally:
        stack.stop()
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        admin.dispose()


@pytest.fixture
def account(site) -> Account:
    return site.account()


class Screens:
    """Opens pages, and keeps what their consoles complained about."""

    def __init__(self, browser: Any, site: Site) -> None:
        self.browser, self.site = browser, site
        self.contexts: list[Any] = []
        self.complaints: list[str] = []

    def open(self, hash_: str = "", url: str | None = None, **options: Any) -> Any:
        """A window of its own, with cookies of its own."""
        known = {"viewport": {"width": 1280, "height": 860}, "locale": "en-GB"} | options
        context = self.browser.new_context(**known)
        context.set_default_timeout(PATIENCE)
        self.contexts.append(context)
        return self.tab(context, hash_, url)

    def tab(self, context: Any, hash_: str = "", url: str | None = None) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)
        page.goto(f"{url or self.site.url}/{hash_}")
        return page

    def _heard(self, message: Any) -> None:
        # The browser itself writes a line for each answer that is no 2xx, and for a lost server.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def signed_in(self, key: str, hash_: str = "", url: str | None = None, **options: Any) -> Any:
        page = self.open(hash_, url, **options)
        self.sign_in(page, key)
        return page

    def sign_in(self, page: Any, key: str) -> None:
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        page.locator("#account").get_by_text("·").wait_for()


@pytest.fixture
def screens(browser, site) -> Iterator[Screens]:
    """Whatever a test does, no page may throw, or meet the content security policy."""
    built = Screens(browser, site)
    yield built
    for context in built.contexts:
        context.close()
    assert built.complaints == []


@pytest.fixture
def files(tmp_path) -> Any:
    def write(name: str, content: str | bytes, encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write
