"""luthier credits show | topup | topups | limit | budgets."""

from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one

ACCOUNT = click.option("--account", metavar="NAME", help="Another account than yours.")
KIND = click.argument("kind", type=click.Choice(["role", "user", "key"]))
BUDGET_COLUMNS = ("kind", "name", "granted", "spent", "reserved", "period", "is_hard", "passed_on")
TOPUP_COLUMNS = ("time", "account", "credits", "note", "by", "key")


@click.group()
def credits() -> None:
    """What an account may spend, and what it was given."""


@credits.command("show")
@ACCOUNT
@AS_JSON
def show_balance(account: str | None, as_json: bool) -> None:
    """Show the balance."""
    _say(Client().credits.balance(account), as_json)


@credits.command()
@click.argument("amount", metavar="CREDITS")
@ACCOUNT
@click.option("--note", default="", help="Kept with it.")
@click.option("--key", help="The same key again adds nothing.  [default: a new one]")
@AS_JSON
def topup(amount: str, account: str | None, note: str, key: str | None, as_json: bool) -> None:
    """Add CREDITS to a balance. The first top-up limits the account to its balance."""
    client = Client()
    added = client.credits.top_up(amount, account, note, key)
    if as_json:
        show_one(added, as_json)
    else:
        balance = client.credits.balance(added["account"])
        click.echo(f"Account {added['account']}: {added['credits']} credits added, {balance['available']} available.")


@credits.command()
@ACCOUNT
@AS_JSON
def topups(account: str | None, as_json: bool) -> None:
    """List the top-ups, newest first."""
    empty = "No top-ups yet: the account has no limit, unless `luthier credits show` says so."
    show(Client().credits.topups(account), TOPUP_COLUMNS, as_json, empty)


@credits.command()
@ACCOUNT
@AS_JSON
def limit(account: str | None, as_json: bool) -> None:
    """Let an account spend no more than its balance, be that nothing."""
    _say(Client().credits.limit(account), as_json)


@credits.command()
@click.argument("amount", metavar="CREDITS|off")
@AS_JSON
def alert(amount: str, as_json: bool) -> None:
    """Tell the account's webhooks when less than CREDITS is left."""
    _say(Client().credits.alert(None if amount == "off" else amount), as_json)


@credits.group()
def budgets() -> None:
    """What a role, a user or a key may spend of the account's credits."""


@budgets.command("list")
@AS_JSON
def list_budgets(as_json: bool) -> None:
    """List them, with what was spent of them."""
    show(Client().credits.budgets(), BUDGET_COLUMNS, as_json, "No budgets: the account's balance alone limits all.")


@budgets.command("set")
@KIND
@click.argument("name")
@click.argument("amount", metavar="CREDITS")
@click.option(
    "--period", type=click.Choice(["none", "day", "month"]), default="none", help="When it begins anew (UTC)."
)
@click.option("--soft", is_flag=True, help="Refuse nothing; only tell when it was passed.")
@AS_JSON
def set_budget(kind: str, name: str, amount: str, period: str, soft: bool, as_json: bool) -> None:
    """Let a role, user or key (by its id) spend no more than CREDITS."""
    show_one(Client().credits.set_budget(kind, name, amount, period, not soft), as_json)


@budgets.command("drop")
@KIND
@click.argument("name")
@AS_JSON
def drop_budget(kind: str, name: str, as_json: bool) -> None:
    """End a budget: the account's balance alone limits again."""
    show_one(Client().credits.drop_budget(kind, name), as_json)


def _say(balance: dict[str, Any], as_json: bool) -> None:
    if as_json or balance["is_limited"]:
        show_one(balance, as_json)
    else:
        click.echo(f"Account {balance['account']} has no limit. The first `luthier credits topup` gives it one.")
