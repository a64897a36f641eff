"""luthier limits list | set | unset."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one

KEY = click.option("--key", metavar="ID", help="Of this key.")
MODEL = click.option("--model", metavar="NAME", help="On this model.")
COLUMNS = ("key", "model", "requests", "tokens")


@click.group()
def limits() -> None:
    """How many requests and tokens a minute a key, a model, or a key on a model may have."""


@limits.command("list")
@AS_JSON
def list_limits(as_json: bool) -> None:
    """List the rate limits, per minute."""
    show(Client().limits.list(), COLUMNS, as_json, "No rate limits. `luthier limits set` sets one.")


@limits.command("set")
@KEY
@MODEL
@click.option("--requests", type=int, metavar="N", help="Per minute.")
@click.option("--tokens", type=int, metavar="N", help="Of prompts and answers, per minute.")
@AS_JSON
def set_limit(key: str | None, model: str | None, requests: int | None, tokens: int | None, as_json: bool) -> None:
    """Limit a key, a model (all keys together), or a key on a model; in the place of what was set for it."""
    show_one(Client().limits.set(key, model, requests, tokens), as_json)


@limits.command("unset")
@KEY
@MODEL
@AS_JSON
def unset_limit(key: str | None, model: str | None, as_json: bool) -> None:
    """End the limit that was set for a key, a model, or a key on a model."""
    show_one(Client().limits.unset(key, model), as_json)
