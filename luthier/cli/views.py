"""luthier views create | list | drop."""

from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, tell


@click.group()
def views() -> None:
    """Views: queries that others may read without what they read."""


@views.command()
@click.argument("name")
@click.argument("query")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="What a column is called; one for each.")
@click.option("--comment", default="")
@click.option("--secure", "is_secure", is_flag=True, help="Nobody but your role sees the query.")
@click.option("--replace", is_flag=True, help="Take the place of a view of that name.")
@AS_JSON
def create(name: str, query: str, columns: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Make a view NAME of the SELECT in QUERY. It is run with your role's rights, whoever reads it.

    luthier views create good "SELECT question AS prompt, answer AS completion FROM faq WHERE score > 3"
    """
    view = Client().views.create(name, query, columns=columns or None, **given)
    tell(view, f"View {view['name']}: columns {', '.join(view['columns'])}.", as_json)


@views.command("list")
@AS_JSON
def list_views(as_json: bool) -> None:
    """List the views that you may read."""
    empty = "No views yet. `luthier views create NAME QUERY` makes one."
    show(Client().views.list(), ("name", "columns", "role", "is_secure", "query", "created_on"), as_json, empty)


@views.command()
@click.argument("name")
def drop(name: str) -> None:
    """Drop the view NAME. What it reads stays."""
    click.echo(f"Dropped view {Client().views.drop(name)['name']}.")
