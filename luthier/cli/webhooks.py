"""luthier webhooks add | list | remove | test | notices."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one
from luthier.platform.webhooks import NoticeType

COLUMNS = ("id", "url", "types", "created_on", "created_by", "ended_on")
NOTICE_COLUMNS = ("time", "id", "type", "data", "deliveries")
ID = click.argument("webhook_id", metavar="ID")


@click.group()
def webhooks() -> None:
    """Where notices of budgets and balances are sent."""


@webhooks.command()
@click.argument("url")
@click.option("--type", "types", multiple=True, type=click.Choice([each.value for each in NoticeType]))
@AS_JSON
def add(url: str, types: tuple[str, ...], as_json: bool) -> None:
    """Send notices to URL: all, or those of some types. Its secret is shown this once."""
    show_one(Client().webhooks.add(url, types or None), as_json)


@webhooks.command("list")
@AS_JSON
def list_webhooks(as_json: bool) -> None:
    """List the webhooks."""
    show(Client().webhooks.list(), COLUMNS, as_json, "No webhooks. `luthier webhooks add` adds one.")


@webhooks.command()
@ID
@AS_JSON
def remove(webhook_id: str, as_json: bool) -> None:
    """Send it nothing more, nor what is on its way."""
    show_one(Client().webhooks.remove(webhook_id), as_json)


@webhooks.command()
@ID
@AS_JSON
def test(webhook_id: str, as_json: bool) -> None:
    """Send it a notice. `luthier webhooks notices` shows whether it came."""
    show_one(Client().webhooks.test(webhook_id), as_json)


@webhooks.command()
@click.option("--limit", type=int, default=100, show_default=True)
@AS_JSON
def notices(limit: int, as_json: bool) -> None:
    """List what there was to tell, newest first, and how far it has come."""
    show(Client().webhooks.notices(limit), NOTICE_COLUMNS, as_json, "No notices yet.")
