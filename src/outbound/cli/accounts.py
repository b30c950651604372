"""Accounts and keys, straight on the database: who has its URL may make them.

Stop and start go over the API, as whoever has the key: they must reach the calls under way.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click
from sqlalchemy import Engine

from outbound import accounts, actions, config, db
from outbound.actions import Operator
from outbound.cli.client import Client, with_client
from outbound.cli.errors import CommandError
from outbound.cli.output import json_option, show


def _engine() -> Engine:
    return db.connect(config.read("database_url"), pool=1)


def _operator() -> Operator:
    return actions.at_this_machine(config.read())


@click.group()
def account() -> None:
    """Make and list accounts; stop and start one's dialling."""


@account.command("create")
@click.argument("name")
@click.option("--caller-id", "caller_ids", multiple=True, help="A number to call from, in E.164.")
@click.option("--max-live-calls", type=click.IntRange(1, 10_000))
@click.option("--calls-per-second", type=click.FloatRange(0.01, 1000))
@click.option("--min-seconds-between-calls", type=click.IntRange(0, 31_536_000))
@click.option("--default-region", help="Where national numbers belong, such as IL.")
@click.option("--default-answer-url")
@click.option("--default-twiml")
@json_option
def create_account(name: str, *, as_json: bool, caller_ids: tuple[str, ...], **fields: Any) -> None:
    """Make an account."""
    given = {key: value for key, value in fields.items() if value is not None}
    with _engine().begin() as connection:
        account_id = accounts.create(connection, name, caller_ids=list(caller_ids), **given)
        actions.record(connection, _operator(), account_id, "account_created")
    show({"account_id": str(account_id), "name": name}, as_json=as_json)


@account.command("list")
@json_option
def list_accounts(*, as_json: bool) -> None:
    """List accounts, oldest first."""
    with _engine().connect() as connection:
        found = accounts.list_accounts(connection)
    columns = ("account_id", "name", "max_live_calls", "calls_per_second", "caller_ids")
    show(found, as_json=as_json, columns=columns)


@account.command("stop")
@click.option("--hang-up", is_flag=True, help="Also end the calls that ring or talk.")
@json_option
@with_client
def stop_account(client: Client, *, hang_up: bool, as_json: bool) -> None:
    """Stop all dialling of the key's account, at once."""
    show(client.post("/account/stop", {"hang_up": hang_up}), as_json=as_json)


@account.command("start")
@json_option
@with_client
def start_account(client: Client, *, as_json: bool) -> None:
    """Dial again after a stop."""
    show(client.post("/account/start"), as_json=as_json)


@click.group()
def key() -> None:
    """Make, list and revoke API keys."""


@key.command("create")
@click.option("--account", "account_id", type=click.UUID, required=True)
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), required=True)
@click.option("--name")
@json_option
def create_key(account_id: UUID, role: str, name: str | None, *, as_json: bool) -> None:
    """Make a key. It is shown once."""
    with _engine().begin() as connection:
        key_id, secret = accounts.create_key(connection, account_id, role, name)
        details = {"key_id": key_id, "role": role}
        actions.record(connection, _operator(), account_id, "key_created", details=details)
    show({"key": secret, "key_id": str(key_id), "role": role}, as_json=as_json)


@key.command("list")
@click.option("--account", "account_id", type=click.UUID, required=True)
@json_option
def list_keys(account_id: UUID, *, as_json: bool) -> None:
    """List an account's keys, newest first."""
    with _engine().connect() as connection:
        accounts.get(connection, account_id)
        found = accounts.list_keys(connection, account_id)
    show(found, as_json=as_json, columns=("key_id", "role", "name", "hint", "revoked_at"))


@key.command("revoke")
@click.argument("key_id", type=click.UUID)
@json_option
def revoke_key(key_id: UUID, *, as_json: bool) -> None:
    """Make a key useless, at once."""
    with _engine().begin() as connection:
        account_id = accounts.revoke_key(connection, None, key_id)
        if account_id is None:
            raise CommandError("there is no such key")
        details = {"key_id": key_id}
        actions.record(connection, _operator(), account_id, "key_revoked", details=details)
    show({"key_id": str(key_id), "revoked": True}, as_json=as_json)
