"""luthier batches create | list | show | cancel | results."""

from typing import Any, get_args

import click

from luthier.cli.batch_objects import CHAT
from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one, tell
from luthier.platform.batches import Endpoint


@click.group()
def batches() -> None:
    """Many requests in a file, answered when the engines have time."""


@batches.command()
@click.argument("file")
@click.option("--endpoint", type=click.Choice(get_args(Endpoint)), default=CHAT, show_default=True)
@click.option("--wait", is_flag=True, help="Until it has come to its end.")
@AS_JSON
def create(file: str, endpoint: Endpoint, wait: bool, as_json: bool) -> None:
    """Have the requests in FILE (.jsonl, or a file's id) answered."""
    client = Client()
    batch = client.batches.create(file, endpoint)
    if wait:
        batch = client.batches.wait(batch["id"])
    tell(batch, f"Batch {batch['id']}: {_summary(batch)}.", as_json)


@batches.command("list")
@AS_JSON
def list_batches(as_json: bool) -> None:
    """List the batches, newest first."""
    empty = "No batches yet. `luthier batches create FILE` makes one."
    rows = Client().batches.list()
    shown = rows if as_json else [_row(batch) for batch in rows]
    show(shown, ("id", "status", "total", "completed", "failed", "endpoint", "created_on"), as_json, empty)


@batches.command("show")
@click.argument("batch_id", metavar="ID")
@AS_JSON
def show_batch(batch_id: str, as_json: bool) -> None:
    """Show one batch; if its file was refused, the faults."""
    batch = Client().batches.get(batch_id)
    if as_json:
        show_one(batch, as_json)
        return
    show_one({**_row(batch), "output_file_id": batch["output_file_id"], "error_file_id": batch["error_file_id"]}, False)
    for fault in batch["errors"]["data"] if batch["errors"] else ():
        where = f"line {fault['line']}: " if fault["line"] else ""
        click.echo(f"{where}{fault['message']}")


@batches.command()
@click.argument("batch_id", metavar="ID")
def cancel(batch_id: str) -> None:
    """Begin no more lines of a batch; what was answered is kept."""
    click.echo(f"Batch {batch_id}: {_summary(Client().batches.cancel(batch_id))}.")


@batches.command()
@click.argument("batch_id", metavar="ID")
@click.argument("folder", type=click.Path(file_okay=False), default=".")
def results(batch_id: str, folder: str) -> None:
    """Download a batch's output, and what failed, into FOLDER."""
    for file in Client().batches.results(batch_id, folder):
        click.echo(file)


def _row(batch: dict[str, Any]) -> dict[str, Any]:
    own = {key: batch[key] for key in ("id", "status", "endpoint")}
    return {**own, **batch["request_counts"], "created_on": batch["created_at"] * 1000}


def _summary(batch: dict[str, Any]) -> str:
    counts = batch["request_counts"]
    return f"{batch['status']}, {counts['completed']} of {counts['total']} answered, {counts['failed']} failed"
