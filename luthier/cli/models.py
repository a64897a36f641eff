"""luthier models list | show | artifacts | export | import | drop."""

from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON, TASKS
from luthier.cli.render import show, show_one


@click.group()
def models() -> None:
    """Tuned models."""


@models.command("list")
@AS_JSON
def list_models(as_json: bool) -> None:
    """List the tuned models."""
    empty = "No tuned models yet. `luthier finetune create` makes one."
    rows = Client().models.list()
    shown = rows if as_json else [_line(row) for row in rows]
    show(shown, ("model", "version", "base_model", "rank", "proof", "job_id", "created_on"), as_json, empty)


@models.command("show")
@click.argument("model")
@AS_JSON
def show_model(model: str, as_json: bool) -> None:
    """Show one model."""
    show_one(Client().models.get(model), as_json)


@models.command()
@click.argument("model")
@AS_JSON
def artifacts(model: str, as_json: bool) -> None:
    """List the files of a model: adapter, training results, manifest."""
    show(Client().models.artifacts(model), ("name", "bytes"), as_json, "No artifacts.")


@models.command()
@click.argument("model")
@click.argument("folder", type=click.Path(file_okay=False))
def export(model: str, folder: str) -> None:
    """Download a model's files into FOLDER."""
    for file in Client().models.export(model, folder):
        click.echo(file)


@models.command("import")
@click.argument("folder")
@click.argument("model")
@click.option("--base-model", help="Whose adapter it is (default: what adapter_config.json names).")
@click.option("--task-type", type=TASKS, help="How the model is asked (default: the first that the base model takes).")
@AS_JSON
def import_model(folder: str, model: str, base_model: str | None, task_type: str | None, as_json: bool) -> None:
    """Make MODEL of the LoRA adapter in FOLDER, which was trained elsewhere (PEFT's format, safetensors)."""
    made = Client().models.import_(model, folder, base_model, task_type)
    if as_json:
        show_one(made, as_json)
    else:
        click.echo(f"Model {made['model']}: version {made['version']}, rank {made['rank']} on {made['base_model']}.")


@models.command()
@click.argument("model")
def drop(model: str) -> None:
    """Drop a model: it stops answering."""
    click.echo(f"Dropped model {Client().models.drop(model)['model']}.")


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """Of the table."""
    return {**row, "job_id": row["job_id"] or "imported", "proof": row["proof"]["state"]}
