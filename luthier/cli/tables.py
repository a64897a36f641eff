"""luthier tables create | list | drop."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, tell


@click.group()
def tables() -> None:
    """Tables of training data."""


@tables.command()
@click.argument("name")
@click.argument("file")
@click.option("--replace", is_flag=True, help="Take the place of a table of that name.")
@AS_JSON
def create(name: str, file: str, replace: bool, as_json: bool) -> None:
    """Upload FILE (.csv, .jsonl, .parquet, .txt, or a folder of .txt files) as the table NAME."""
    table = Client().tables.create(name, file, replace)
    tell(table, f"Table {table['name']}: {table['num_rows']} rows, columns {', '.join(table['columns'])}.", as_json)


@tables.command("list")
@AS_JSON
def list_tables(as_json: bool) -> None:
    """List the tables."""
    empty = "No tables yet. `luthier tables create NAME FILE` uploads one."
    show(Client().tables.list(), ("name", "num_rows", "columns", "owner", "created_on"), as_json, empty)


@tables.command()
@click.argument("name")
def drop(name: str) -> None:
    """Drop the table NAME. Jobs keep their own snapshot of it."""
    click.echo(f"Dropped table {Client().tables.drop(name)['name']}.")
