"""luthier usage finetuning | completions | storage | credits | statement."""

import os
from pathlib import Path
from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON, parse_time
from luthier.cli.render import show

COLUMNS = {
    "finetuning": ("time", "source_id", "base_model", "model", "trained_tokens", "evaluated_tokens", "credits"),
    "completions": ("time", "function", "model", "prompt_tokens", "completion_tokens", "credits"),
    "storage": ("time", "stored_bytes", "price_version", "credits"),
    "credits": ("kind",),
}
HELP = {
    "finetuning": "Every fine-tuning, or sums.",
    "completions": "Every completion, or sums.",
    "storage": "Every day of storage, or sums.",
    "credits": "Sums of all kinds.",
}
SUMS = ("records", "prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens", "credits")
GROUPS = ("model", "base_model", "function", "user", "role", "key", "query", "day", "hour")
SINCE = click.option("--since", help="From this date or time on.")
UNTIL = click.option("--until", help="Before this date or time.")
GROUP_BY = click.option(
    "--group-by", "group_by", multiple=True, type=click.Choice(GROUPS), help="Sum by this; may be repeated."
)


@click.group()
def usage() -> None:
    """Show tokens, bytes and credits."""


def _listing(kind: str) -> click.Command:
    def listing(since: str | None, until: str | None, group_by: tuple[str, ...], as_json: bool) -> None:
        rows = Client().usage(kind, parse_time(since), parse_time(until), group_by)
        columns = ("kind", *group_by, *SUMS) if kind == "credits" or group_by else COLUMNS[kind]
        show(rows, columns, as_json, "No usage in this time.")

    flagged: Any = SINCE(UNTIL(GROUP_BY(AS_JSON(listing))))
    return click.command(kind, help=HELP[kind])(flagged)


for each in COLUMNS:
    usage.add_command(_listing(each))


@usage.command()
@SINCE
@UNTIL
@click.option("--format", "form", type=click.Choice(["csv", "cloudevents"]), default="csv", help="Default csv.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of the terminal.")
def statement(since: str | None, until: str | None, form: str, output: Path | None) -> None:
    """Write the account's ledger, a line a record; CloudEvents are JSON lines for OpenMeter and its like."""
    parts = Client().statement(parse_time(since), parse_time(until), form)
    if output is None:
        for part in parts:
            click.echo(part, nl=False)
        return
    half = output.with_name(f"{output.name}.part")
    try:
        with half.open("wb") as out:
            out.writelines(parts)
        os.replace(half, output)
    finally:
        half.unlink(missing_ok=True)
