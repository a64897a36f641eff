"""luthier shares create | list | show | drop | grant | revoke | accounts | use | drop-database."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, tell
from luthier.errors import InvalidInput

KIND = click.argument("kind", type=click.Choice(("database", "schema", "model"), case_sensitive=False))
IN_SCHEMA = click.option("--all", "is_all", is_flag=True, help="NAME is a schema, and all models in it are meant.")
COLUMNS = ("kind", "owner_account", "name", "database_name", "to", "owner", "comment", "created_on")


@click.group()
def shares() -> None:
    """Models that other accounts may ask, and what of theirs you may. They never see inside, and pay for it."""


@shares.command("create")
@click.argument("name")
@click.option("--comment", default="")
@AS_JSON
def create_share(name: str, comment: str, as_json: bool) -> None:
    """Make a share. It gives nothing yet, and to nobody."""
    share = Client().shares.create(name, comment)
    tell(share, f"Share {share['name']}. `luthier shares grant {share['name']} database NAME` comes next.", as_json)


@shares.command("list")
@AS_JSON
def list_shares(as_json: bool) -> None:
    """List your account's shares (OUTBOUND), and those of others that are open to it (INBOUND)."""
    empty = "No shares. `luthier shares create` makes one."
    show(Client().shares.list(), COLUMNS, as_json, empty)


@shares.command("show")
@click.argument("name")
@click.option("--from", "provider", metavar="ACCOUNT", help="Whose share it is (default: your own account's).")
@AS_JSON
def show_share(name: str, provider: str | None, as_json: bool) -> None:
    """Show what a share gives."""
    show(Client().shares.describe(name, provider), ("kind", "name", "shared_on"), as_json, "It gives nothing yet.")


@shares.command("drop")
@click.argument("name")
@AS_JSON
def drop_share(name: str, as_json: bool) -> None:
    """Drop a share: whoever used it finds nothing there any more."""
    dropped = Client().shares.drop(name)
    tell(dropped, f"Dropped share {dropped['name']}.", as_json)


@shares.command("grant")
@click.argument("share")
@KIND
@click.argument("name")
@IN_SCHEMA
@AS_JSON
def grant(share: str, kind: str, name: str, is_all: bool, as_json: bool) -> None:
    """Let a share give USAGE on a database, then on a schema in it, then on a model.

    luthier shares grant for_partner model my_model
    """
    num = Client().shares.grant(share, kind.upper(), name, "ALL" if is_all else "ONE")
    tell({"objects": num, "share": share}, f"Share {share} gives {num} more.", as_json)


@shares.command("revoke")
@click.argument("share")
@KIND
@click.argument("name")
@IN_SCHEMA
@AS_JSON
def revoke(share: str, kind: str, name: str, is_all: bool, as_json: bool) -> None:
    """Take USAGE on an object from a share; on a database with all that is in it."""
    num = Client().shares.revoke(share, kind.upper(), name, "ALL" if is_all else "ONE")
    tell({"objects": num, "share": share}, f"Share {share} gives {num} less.", as_json)


@shares.command("accounts")
@click.argument("share")
@click.option("--add", multiple=True, metavar="ACCOUNT", help="Open it to this one too; may be repeated.")
@click.option("--remove", multiple=True, metavar="ACCOUNT", help="Not to this one any more; may be repeated.")
@click.option("--set", "only", multiple=True, metavar="ACCOUNT", help="To this one and no other; may be repeated.")
@AS_JSON
def accounts(share: str, add: tuple[str, ...], remove: tuple[str, ...], only: tuple[str, ...], as_json: bool) -> None:
    """Show to which accounts a share is open, or change it."""
    client = Client()
    if only and (add or remove):
        raise InvalidInput("--set says all of it: give it alone, or --add and --remove.")
    if only:
        client.shares.set_accounts(share, only)
    if add:
        client.shares.add_accounts(share, add)
    for account in remove:
        client.shares.remove_account(share, account)
    columns = ("grantee_name", "granted_by", "created_on")
    show(client.shares.accounts(share), columns, as_json, "It is open to nobody yet.")


@shares.command("use")
@click.argument("provider")
@click.argument("share")
@click.argument("database")
@AS_JSON
def use(provider: str, share: str, database: str, as_json: bool) -> None:
    """Make DATABASE of the share of account PROVIDER: its models are DATABASE.SCHEMA.MODEL then."""
    made = Client().shares.use(provider, share, database)
    cure = f'`luthier grants add "IMPORTED PRIVILEGES" database {made["name"]} --to ROLE`'
    tell(made, f"Database {made['name']}. Roles ask its models after {cure}.", as_json)


@shares.command("drop-database")
@click.argument("database")
@AS_JSON
def drop_database(database: str, as_json: bool) -> None:
    """Drop a database that was made of a share: nobody of your account asks its models any more."""
    dropped = Client().shares.drop_database(database)
    tell(dropped, f"Dropped database {dropped['name']}.", as_json)
