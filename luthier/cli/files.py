"""luthier files create | list | download | delete."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, tell
from luthier.platform.files import UPLOADED

PURPOSE = click.Choice([purpose.value for purpose in UPLOADED])


@click.group()
def files() -> None:
    """Files by an id: of batches, and for them."""


@files.command()
@click.argument("file")
@click.option("--purpose", type=PURPOSE, default="batch", show_default=True)
@AS_JSON
def create(file: str, purpose: str, as_json: bool) -> None:
    """Upload FILE (.jsonl)."""
    made = Client().files.create(file, purpose)
    tell(made, f"File {made['id']}: {made['filename']}, {made['bytes']} bytes.", as_json)


@files.command("list")
@AS_JSON
def list_files(as_json: bool) -> None:
    """List the files, newest first."""
    empty = "No files yet. `luthier files create FILE` uploads one."
    rows = Client().files.list()
    shown = rows if as_json else [{**row, "created_on": row["created_at"] * 1000} for row in rows]
    show(shown, ("id", "filename", "purpose", "bytes", "created_on"), as_json, empty)


@files.command()
@click.argument("file_id", metavar="ID")
@click.argument("to", type=click.Path(dir_okay=False))
def download(file_id: str, to: str) -> None:
    """Write a file's content TO a file of this machine."""
    click.echo(Client().files.download(file_id, to))


@files.command()
@click.argument("file_id", metavar="ID")
def delete(file_id: str) -> None:
    """Delete a file."""
    Client().files.delete(file_id)
    click.echo(f"Deleted file {file_id}.")
