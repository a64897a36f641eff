"""luthier models list | show | artifacts | export | import | drop | collect; those on versions are in versions.py."""

from typing import Any

import click

from luthier.cli.client import Client
from luthier.cli.finetune import DRY_RUN, NO_PLOT, WAIT, tell_report, tell_started
from luthier.cli.options import AS_JSON, TASKS
from luthier.cli.progress import transfer
from luthier.cli.render import show, show_one, tell
from luthier.cli.versions import COLUMNS, COMMANDS, state_of, version_line


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
    columns = ("model", "default", "versions", "aliases", "canary", "base_model", "proof", "created_on")
    show(shown, columns, as_json, empty)


@models.command("show")
@click.argument("model")
@AS_JSON
def show_model(model: str, as_json: bool) -> None:
    """Show one model, or one version (MODEL@3), and the versions that there are."""
    client = Client()
    found = client.models.get(model)
    if found["origin"]:  # another account's: there is no more to see
        show_one(found, as_json)
        return
    versions = client.models.versions(found["model"])
    if as_json:
        show_one({**found, "all_versions": versions}, as_json)
        return
    show_one({**found, **state_of(found), "job_id": found["job_id"] or "imported"}, as_json)
    show([version_line(row) for row in versions], COLUMNS, as_json, "No versions.")


@models.command()
@click.argument("model")
@AS_JSON
def artifacts(model: str, as_json: bool) -> None:
    """List the files of a model: adapter, training results, manifest."""
    show(Client().models.artifacts(model), ("name", "bytes"), as_json, "No artifacts.")


@models.command()
@click.argument("model")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--merged", is_flag=True, help="Whole weights: the base model's with the adapter in them.")
@click.option("--force", is_flag=True, help="Into a folder that has other files in it.")
def export(model: str, folder: str, merged: bool, force: bool) -> None:
    """Download the files of MODEL, or of MODEL@VERSION, into FOLDER, with a model card."""
    with transfer(model) as on_bytes:
        files = Client().models.export(model, folder, merged, force, on_bytes)
    for file in files:
        click.echo(file)


@models.command("import")
@click.argument("folder")
@click.argument("model")
@click.option("--base-model", help="Whose adapter it is (default: what adapter_config.json names).")
@click.option("--task-type", type=TASKS, help="How the model is asked (default: the first that the base model takes).")
@click.option("--new-version", is_flag=True, help="If the model is there, make its next version.")
@click.option("--promote", is_flag=True, help="The new version is the default at once.")
@AS_JSON
def import_model(model: str, folder: str, as_json: bool, **origin: Any) -> None:
    """Make MODEL of the LoRA adapter in FOLDER, which was trained elsewhere (PEFT's format, safetensors)."""
    made = Client().models.import_(model, folder, **origin)
    told = f"version {made['version']}, rank {made['rank']} on {made['base_model']}"
    tell(made, f"Model {made['model']}: {told}.", as_json)


@models.command()
@click.argument("model")
@click.option("--base-model", required=True, help="What it is trained on now.")
@click.option("--promote", is_flag=True, help="The new version is the default as soon as it is made.")
@DRY_RUN
@WAIT
@NO_PLOT
@AS_JSON
def retune(  # noqa: PLR0913 - click hands over one argument an option
    model: str, base_model: str, promote: bool, dry_run: bool, wait: bool, no_plot: bool, as_json: bool
) -> None:
    """Train MODEL again on another base model, from the data that it was made of: its next version."""
    finetune = Client().finetune
    if dry_run:
        tell_report(finetune.dry_retune(model, base_model), as_json)
    tell_started(finetune.retune(model, base_model, promote), wait, no_plot, as_json)


@models.command()
@click.argument("model")
@click.option("--to", "region", required=True, help="A region of the setting `regions`.")
@AS_JSON
def replicate(model: str, region: str, as_json: bool) -> None:
    """Bring MODEL in another region up to date, or make it there. It answers there by itself."""
    done = Client().models.replicate(model, region)
    new = f"new there: {', '.join(map(str, done['new']))}" if done["new"] else "nothing is new there"
    default = f"version {done['default_version']} is the default"
    tell(done, f"Model {done['model']} in region {region}: {default}; {new}.", as_json)


@models.command()
@click.argument("model")
def drop(model: str) -> None:
    """Drop a model, or one version of it (MODEL@3): it stops answering."""
    click.echo(f"Dropped model {Client().models.drop(model)['model']}.")


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """Of the table."""
    base_model = f"{row['base_model']} (retired)" if row["is_retired"] else row["base_model"]
    told = {"default": row["default_version"], "proof": row["proof"]["state"], "base_model": base_model}
    return {**row, **state_of(row), **told}


@models.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@AS_JSON
def collect(dry_run: bool, as_json: bool) -> None:
    """Remove the files of what was dropped a while ago now; it happens every ten minutes anyway."""
    show(Client().models.collect(dry_run), ("name", "bytes"), as_json, "Nothing to collect.")


for command in COMMANDS:
    models.add_command(command)
