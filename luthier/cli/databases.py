"""luthier databases | schemas."""

import click

from luthier.cli.client import Client
from luthier.cli.database_objects import Places
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, tell


@click.group()
def databases() -> None:
    """Databases: what schemas lie in."""


@click.group()
def schemas() -> None:
    """Schemas: what tables and models lie in. NAME is that of the database, a dot, and its own."""


@schemas.command("list")
@click.option("--in", "database", metavar="DATABASE")
@AS_JSON
def list_schemas(database: str | None, as_json: bool) -> None:
    """List the schemas that you may see."""
    columns = ("name", "database", "is_default", "owner", "comment", "created_on")
    show(Client().schemas.list(database), columns, as_json, "No schemas.")


@databases.command("list")
@AS_JSON
def list_databases(as_json: bool) -> None:
    """List the databases that you may see."""
    columns = ("name", "is_default", "owner", "comment", "created_on")
    show(Client().databases.list(), columns, as_json, "No databases.")


def _add_changes(group: click.Group, kind: str) -> None:
    """create and drop: the same for both kinds."""

    def places() -> Places:
        client = Client()
        return client.databases if kind == "database" else client.schemas

    @group.command("create", help=f"Make a {kind}.")
    @click.argument("name")
    @click.option("--comment", default="")
    @AS_JSON
    def create(name: str, comment: str, as_json: bool) -> None:
        place = places().create(name, comment)
        tell(place, f"{kind.capitalize()} {place['name']}.", as_json)

    @group.command("drop", help=f"Drop a {kind}.")
    @click.argument("name")
    @click.option("--cascade", is_flag=True, help="With the tables and models in it.")
    def drop(name: str, cascade: bool) -> None:
        click.echo(f"Dropped {kind} {places().drop(name, cascade)['name']}.")


_add_changes(databases, "database")
_add_changes(schemas, "schema")
COMMANDS = (databases, schemas)
