"""luthier sql."""

import sys
from pathlib import Path

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show
from luthier.errors import InvalidInput, LuthierError


@click.command()
@click.argument("statement", required=False)
@click.option("-f", "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Read it from a file.")
@AS_JSON
def sql(statement: str | None, file: Path | None, as_json: bool) -> None:
    """Run one SQL STATEMENT; without one, read statements until end of input."""
    if statement and file:
        raise InvalidInput("Give a statement or a file, not both.")
    client = Client()
    text = file.read_text() if file else statement
    if text is not None:
        _run(client, text, as_json)
    else:
        _interactive(client, as_json)


def _run(client: Client, statement: str, as_json: bool) -> None:
    table = client.sql(statement)
    show(table.to_pylist(), table.column_names, as_json, "No rows.")


def _interactive(client: Client, as_json: bool) -> None:
    """A statement ends with a semicolon at a line's end."""
    waiting: list[str] = []
    while True:
        if sys.stdin.isatty():
            click.echo("... " if waiting else "luthier> ", nl=False)
        line = sys.stdin.readline()
        waiting.append(line)
        if (line.rstrip().endswith(";") or not line) and "".join(waiting).strip():
            try:
                _run(client, "".join(waiting), as_json)
            except LuthierError as error:
                click.echo(f"Error: {error.message}", err=True)
            waiting = []
        if not line:
            return
