"""luthier ledger reconcile."""

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one

COLUMNS = ("check", "of", "what", "counted", "waiting", "ledger", "difference", "note")


@click.group()
def ledger() -> None:
    """The ledger as a whole."""


@ledger.command()
@AS_JSON
@click.pass_context
def reconcile(ctx: click.Context, as_json: bool) -> None:
    """Compare the ledger with what replicas, engines, batches and trainers counted; exit status 1 on a difference."""
    report = Client().reconcile()
    if as_json:
        show_one(report, as_json)
    else:
        show(report["checks"], COLUMNS, as_json, "Nothing was counted yet.")
        for note in report["notes"]:
            click.echo(f"Not compared: {note}")
    if not report["is_equal"]:
        click.echo("The ledger differs from what was counted.", err=True)
        ctx.exit(1)
