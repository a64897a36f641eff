"""luthier keys create | list | revoke | rotate."""

from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON, parse_duration
from luthier.cli.render import show, show_one, tell
from luthier.platform.keys import Endpoint, Scope

COLUMNS = ("id", "name", "prefix", "user", "role", "may", "state", "created_on", "expires_on", "last_used_on")
ENDPOINTS = click.Choice([endpoint.value for endpoint in Endpoint])
EXPIRES_IN = click.option("--expires-in", metavar="TIME", help="It ends by itself after this: 30m, 12h, 90d.")


@click.group()
def keys() -> None:
    """API keys: for whom, for what, how long."""


@keys.command()
@click.option("--name", default="", help="What it is for, in your words.")
@click.option("--user", help="Whose it is (default: yours). Others' keys are made by ACCOUNTADMIN.")
@click.option("--role", help="One of the user's roles.")
@click.option("--endpoint", "endpoints", multiple=True, type=ENDPOINTS, help="For this alone; may be repeated.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="For this model alone; may be repeated.")
@click.option("--read-only", is_flag=True, help="It changes nothing. It may ask for completions.")
@EXPIRES_IN
@AS_JSON
def create(expires_in: str | None, as_json: bool, **given: Any) -> None:
    """Make a key. Its secret is shown this once."""
    _show_new(Client().keys.create(**given, expires_in_s=parse_duration(expires_in)), as_json)


@keys.command("list")
@AS_JSON
def list_keys(as_json: bool) -> None:
    """List the keys: your own, or as ACCOUNTADMIN those of the account."""
    rows = Client().keys.list()
    if not as_json:
        rows = [{**row, "may": str(Scope(**row["scope"])), "state": _state(row)} for row in rows]
    show(rows, COLUMNS, as_json, "No keys. `luthier keys create` makes one.")


@keys.command()
@click.argument("key_id")
@AS_JSON
def revoke(key_id: str, as_json: bool) -> None:
    """End the key KEY_ID. It opens nothing any more within 5 seconds."""
    key = Client().keys.revoke(key_id)
    tell(key, f"Revoked key {key['id']}.", as_json)


@keys.command()
@click.argument("key_id")
@click.option("--grace", metavar="TIME", help="How long the old secret works beside the new one (default 24h).")
@EXPIRES_IN
@AS_JSON
def rotate(key_id: str, grace: str | None, expires_in: str | None, as_json: bool) -> None:
    """Put a new key in the place of KEY_ID. Its secret is shown this once."""
    _show_new(Client().keys.rotate(key_id, parse_duration(grace), parse_duration(expires_in)), as_json)


def _show_new(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_one(key, as_json)
        return
    click.echo(key["key"])
    click.echo(f"Key {key['id']} of {key['user']} as {key['role']}, for {Scope(**key['scope'])}.", err=True)
    click.echo("This is the only time that the secret is shown.", err=True)


def _state(row: dict[str, Any]) -> str:
    if row["revoked_on"] is not None:
        return "revoked"
    return f"rotated to {row['rotated_to']}" if row["rotated_to"] else "in use"
