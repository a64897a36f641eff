"""luthier accounts | users | roles | grants."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one, tell
from luthier.errors import InvalidInput

KINDS = click.Choice(
    ("account", "database", "schema", "table", "view", "model", "role", "user", "share", "database role", "base model"),
    case_sensitive=False,
)
TO_USER = click.option("--to-user", metavar="USER")
TO_ROLE = click.option("--to-role", metavar="ROLE")
SCOPE = click.option(
    "--scope",
    type=click.Choice(("one", "all", "future"), case_sensitive=False),
    default="one",
    show_default=True,
    help="all, future: NAME is a schema, and its tables or models are meant that are there, or will be.",
)


@click.group()
def accounts() -> None:
    """Accounts: tenants that cannot see each other. And the parameters of your own."""


@accounts.command("create")
@click.argument("name")
@AS_JSON
def create_account(name: str, as_json: bool) -> None:
    """Make an account, and show the API key of its admin this once."""
    account = Client().accounts.create(name)
    tell(account, f"Account {account['name']}. The key of its admin is not shown again:\n{account['api_key']}", as_json)


@accounts.command("list")
@AS_JSON
def list_accounts(as_json: bool) -> None:
    """List the accounts that you may see."""
    show(Client().accounts.list(), ("name", "created_on"), as_json, "No accounts.")


@accounts.command("parameters")
@click.option("--set", "given", metavar="NAME=VALUE", help="Such as CORTEX_MODELS_ALLOWLIST=smollm2-135m.")
@click.option("--unset", metavar="NAME", help="Its default again.")
@AS_JSON
def parameters(given: str | None, unset: str | None, as_json: bool) -> None:
    """Show the parameters of your account, or change one."""
    client = Client()
    if given is not None:
        name, equals, value = given.partition("=")
        if not equals:
            raise InvalidInput("Write --set NAME=VALUE.")
        client.accounts.set_parameter(name, value)
    if unset is not None:
        client.accounts.set_parameter(unset, None)
    show_one(client.accounts.parameters(), as_json)


@click.group()
def users() -> None:
    """Users of your account."""


@users.command("create")
@click.argument("name")
@click.option("--default-role", metavar="ROLE")
@click.option("--comment", default="")
@AS_JSON
def create_user(name: str, default_role: str | None, comment: str, as_json: bool) -> None:
    """Make a user. He has no role but PUBLIC and no key yet."""
    user = Client().users.create(name, default_role, comment)
    tell(user, f"User {user['name']}. `luthier roles grant ROLE --to-user {user['name']}` gives him a role.", as_json)


@users.command("set")
@click.argument("name")
@click.option("--default-role", metavar="ROLE", required=True, help="One that he has; '' for none.")
@AS_JSON
def set_user(name: str, default_role: str, as_json: bool) -> None:
    """Choose the role in which a user begins: by a token, and in a key that names none."""
    user = Client().users.set_default_role(name, default_role or None)
    if as_json:
        show_one(user, as_json)
    else:
        click.echo(f"User {user['name']} begins as {user['default_role'] or 'the first of his roles'}.")


@users.command("list")
@AS_JSON
def list_users(as_json: bool) -> None:
    """List the users that you may see."""
    show(Client().users.list(), ("name", "default_role", "owner", "comment", "created_on"), as_json, "No users.")


@users.command("drop")
@click.argument("name")
def drop_user(name: str) -> None:
    """Drop a user; his keys are revoked."""
    click.echo(f"Dropped user {Client().users.drop(name)['name']}.")


@click.group()
def roles() -> None:
    """Roles: what a user may do."""


@roles.command("create")
@click.argument("name")
@click.option("--comment", default="")
@AS_JSON
def create_role(name: str, comment: str, as_json: bool) -> None:
    """Make a role. It may do nothing yet but what PUBLIC may."""
    role = Client().roles.create(name, comment)
    cure = f"`luthier grants add USAGE model NAME --to {role['name']}`"
    tell(role, f"Role {role['name']}. {cure} lets it do something.", as_json)


@roles.command("list")
@AS_JSON
def list_roles(as_json: bool) -> None:
    """List the roles that you may see."""
    columns = ("name", "is_current", "assigned_to_users", "granted_to_roles", "granted_roles", "owner", "comment")
    show(Client().roles.list(), columns, as_json, "No roles.")


@roles.command("drop")
@click.argument("name")
def drop_role(name: str) -> None:
    """Drop a role. What it owned is your current role's."""
    click.echo(f"Dropped role {Client().roles.drop(name)['name']}.")


@roles.command("grant")
@click.argument("name")
@TO_USER
@TO_ROLE
def grant_role(name: str, to_user: str | None, to_role: str | None) -> None:
    """Give a role to a user, or to another role, which then holds all that this one does."""
    _check_one(to_user, to_role)
    Client().roles.grant(name, to_user, to_role)
    click.echo(f"Role {name} is granted to {to_user or to_role}.")


@roles.command("revoke")
@click.argument("name")
@click.option("--from-user", metavar="USER")
@click.option("--from-role", metavar="ROLE")
def revoke_role(name: str, from_user: str | None, from_role: str | None) -> None:
    """Take a role from a user, or from another role."""
    _check_one(from_user, from_role)
    Client().roles.revoke(name, from_user, from_role)
    click.echo(f"Role {name} is revoked from {from_user or from_role}.")


@click.group()
def grants() -> None:
    """Privileges: what a role may do with what."""


@grants.command("add")
@click.argument("privileges")
@click.argument("kind", type=KINDS)
@click.argument("name", default="")
@click.option("--to", "role", metavar="ROLE", required=True)
@SCOPE
def add_grant(privileges: str, kind: str, name: str, role: str, scope: str) -> None:
    """Grant PRIVILEGES, with commas between them, on an object to a role.

    luthier grants add USAGE model my_model --to analyst
    """
    num = Client().grants.grant(privileges.split(","), kind.upper(), name, role, scope.upper())
    click.echo(f"Granted {privileges} to role {role}{_on(num, scope)}.")


@grants.command("revoke")
@click.argument("privileges")
@click.argument("kind", type=KINDS)
@click.argument("name", default="")
@click.option("--from", "role", metavar="ROLE", required=True)
@SCOPE
def revoke_grant(privileges: str, kind: str, name: str, role: str, scope: str) -> None:
    """Revoke PRIVILEGES on an object from a role."""
    num = Client().grants.revoke(privileges.split(","), kind.upper(), name, role, scope.upper())
    click.echo(f"Revoked {privileges} from role {role}{_on(num, scope)}.")


@grants.command("list")
@TO_USER
@TO_ROLE
@click.option("--of-role", metavar="ROLE", help="Who has it.")
@click.option("--on", "on", nargs=2, metavar="KIND NAME", help="What is granted on an object.")
@click.option("--future-in", metavar="SCHEMA", help="What will be granted on objects there.")
@AS_JSON
def list_grants(
    to_user: str | None,
    to_role: str | None,
    of_role: str | None,
    on: tuple[str, str] | None,
    future_in: str | None,
    as_json: bool,
) -> None:
    """Show grants; without an option, your own roles."""
    kind, name = on or (None, None)
    asked = {"to_user": to_user, "to_role": to_role, "of_role": of_role, "future_in": future_in}
    rows = Client().grants.list(**asked, kind=kind and kind.upper(), name=name)
    is_roles = not (to_role or future_in or on)
    first = ("role", "granted_to") if is_roles else ("privilege", "granted_on", "name")
    show(rows, (*first, "grantee_name", "granted_by", "created_on"), as_json, "No grants.")


COMMANDS = (accounts, users, roles, grants)


def _check_one(user: str | None, role: str | None) -> None:
    if (user is None) == (role is None):
        raise InvalidInput("Name one user or one role.")


def _on(num: int, scope: str) -> str:
    return f" on {num} objects" if scope.lower() == "all" else ""
