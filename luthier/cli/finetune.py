"""luthier finetune create | show | describe | cancel | watch | events."""

import sys
from typing import Any

import click

from luthier.cli.client import Client, FinetuneJob
from luthier.cli.options import AS_JSON, parse_set
from luthier.cli.progress import watch_job
from luthier.cli.render import show, show_one
from luthier.platform.jobs import JobStatus


@click.group()
def finetune() -> None:
    """Create and follow fine-tuning jobs."""


@finetune.command()
@click.argument("name")
@click.option("--base-model", required=True, help="A base model of `luthier base-models list`.")
@click.option(
    "--training-data", required=True, help="A SELECT with the columns prompt and completion, or a file with them."
)
@click.option("--validation-data", help="The same for validation; without it a share is split off.")
@click.option("--max-epochs", type=int, help="Passes over the data, 1 to 10 (default 3).")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any other option, such as learning_rate=2e-4.")
@click.option("--dry-run", is_flag=True, help="Report rows, tokens and credits; start nothing.")
@click.option("--wait", is_flag=True, help="Follow the job to its end; exit status 1 unless it succeeds.")
@AS_JSON
def create(  # noqa: PLR0913 - click hands over one argument an option
    name: str,
    base_model: str,
    training_data: str,
    validation_data: str | None,
    max_epochs: int | None,
    sets: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Make the model NAME from a base model and training data."""
    client = Client()
    options = parse_set(sets)
    if max_epochs is not None:
        options["max_epochs"] = max_epochs
    if dry_run:
        show_one(client.finetune.dry_run(name, base_model, training_data, validation_data, options), as_json)
        return
    job = client.finetune.create(name, base_model, training_data, validation_data, options)
    if wait:
        _follow(job, as_json)
    elif as_json:
        show_one(job.describe(), as_json)
    else:
        click.echo(job.id)


@finetune.command("show")
@AS_JSON
def show_jobs(as_json: bool) -> None:
    """List the jobs, newest first."""
    jobs = [{**job, "progress": f"{job['progress']:.0%}"} if not as_json else job for job in Client().finetune.show()]
    columns = ("id", "status", "progress", "model", "base_model", "created_on")
    show(jobs, columns, as_json, "No fine-tuning jobs yet. `luthier finetune create` starts one.")


@finetune.command()
@click.argument("job_id")
@AS_JSON
def describe(job_id: str, as_json: bool) -> None:
    """Show one job: state, data report, losses, error."""
    show_one(Client().finetune.job(job_id).describe(), as_json)


@finetune.command()
@click.argument("job_id")
def cancel(job_id: str) -> None:
    """Stop a job. What it trained so far is billed."""
    Client().finetune.job(job_id).cancel()
    click.echo(f"Canceled Cortex Fine-tuning job: {job_id}")


@finetune.command()
@click.argument("job_id")
@AS_JSON
def watch(job_id: str, as_json: bool) -> None:
    """Follow a job to its end; exit status 1 unless it succeeds."""
    _follow(Client().finetune.job(job_id), as_json)


@finetune.command()
@click.argument("job_id")
@AS_JSON
def events(job_id: str, as_json: bool) -> None:
    """Show what happened to a job."""
    show(Client().finetune.job(job_id).events(), ("time", "type", "message"), as_json, "No events.")


def _follow(job: FinetuneJob, as_json: bool) -> None:
    ended: dict[str, Any] = watch_job(job)
    show_one(ended, as_json)
    sys.exit(0 if ended["status"] == JobStatus.SUCCESS else 1)
