"""luthier usage finetuning | completions | storage | credits."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON, parse_time
from luthier.cli.render import show

COLUMNS = {
    "finetuning": ("time", "source_id", "base_model", "model", "trained_tokens", "credits"),
    "completions": ("time", "function", "model", "prompt_tokens", "completion_tokens", "credits"),
    "storage": ("time", "stored_bytes", "price_version", "credits"),
    "credits": ("kind",),
}
SUMS = ("records", "prompt_tokens", "completion_tokens", "trained_tokens", "credits")
GROUPS = ("model", "base_model", "function", "user", "role", "query", "day", "hour")


@click.command()
@click.argument("kind", type=click.Choice(list(COLUMNS)))
@click.option("--since", help="From this date or time on.")
@click.option("--until", help="Before this date or time.")
@click.option("--group-by", "group_by", multiple=True, type=click.Choice(GROUPS), help="Sum by this; may be repeated.")
@AS_JSON
def usage(kind: str, since: str | None, until: str | None, group_by: tuple[str, ...], as_json: bool) -> None:
    """Show tokens and credits: every fine-tuning, completion or day of storage, or sums."""
    rows = Client().usage(kind, parse_time(since), parse_time(until), group_by)
    columns = ("kind", *group_by, *SUMS) if kind == "credits" or group_by else COLUMNS[kind]
    show(rows, columns, as_json, "No usage in this time.")
