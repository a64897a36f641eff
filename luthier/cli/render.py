"""How answers look: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

# Data is shown as it is: brackets in it are no markup, colons no emoji.
console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200)


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool, empty: str) -> None:
    """A list: JSON, or a table of the columns named, or one line that says why there is none."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, default=str))
    elif not rows:
        click.echo(empty)
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            is_count = isinstance(rows[0].get(column), int) and not column.endswith("_on") and column != "time"
            table.add_column(column.replace("_", " "), justify="right" if is_count else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(column, row.get(column)) for column in columns))
        console.print(table)


def show_one(row: Mapping[str, Any], as_json: bool) -> None:
    """One object: JSON, or a line a key; nested objects indented."""
    if as_json:
        click.echo(json.dumps(row, indent=2, default=str))
    else:
        _lines(row, "")


def tell(row: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    """What was done to one object: JSON, or a sentence."""
    if as_json:
        show_one(row, as_json)
    else:
        click.echo(sentence)


def _lines(row: Mapping[str, Any], indent: str) -> None:
    width = max((len(key) for key in row), default=0)
    for key, value in row.items():
        if isinstance(value, Mapping):
            click.echo(f"{indent}{key}")
            _lines(value, indent + "  ")
        else:
            click.echo(f"{indent}{key:<{width}}  {_cell(key, value)}")


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and (column.endswith("_on") or column in ("time", "day", "hour")):
        return datetime.fromtimestamp(value / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
