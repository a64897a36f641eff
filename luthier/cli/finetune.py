"""luthier finetune create | show | describe | cancel | watch | events | metrics | answers | logs."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from luthier.cli.client import Client, FinetuneJob
from luthier.cli.options import AS_JSON, INTERRUPTED, training_flags, training_options
from luthier.cli.plots import loss_plot
from luthier.cli.progress import POINTS, watch_job
from luthier.cli.render import console, show, show_one
from luthier.cli.report import show_report
from luthier.errors import BadDataset, InvalidInput
from luthier.platform.frozen import read_toml
from luthier.platform.jobs import JobStatus
from luthier.platform.wire import CreateJob

JOB_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NO_PLOT = click.option("--no-plot", is_flag=True, help="Show no loss curve.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Judge the data, its price and time; start nothing.")
WAIT = click.option("--wait", is_flag=True, help="Follow the job to its end; exit status 1 unless it succeeds.")
SHOWN_METRICS = ("step", "epoch", "training_loss", "validation_loss", "learning_rate", "tokens_per_second", "mfu")
TABLE_ROWS = 20
PLOT_HEIGHT = 20


@click.group()
def finetune() -> None:
    """Create and follow fine-tuning jobs."""


@finetune.command()
@click.argument("name", required=False)
@click.option("--file", "job_file", type=JOB_FILE, help="Says what is not given here: a job in TOML (configs/jobs/).")
@click.option("--base-model", help="A base model of `luthier base-models list`.")
@click.option("--training-data", help="A SELECT, a file, or a folder of .txt files.")
@click.option("--validation-data", help="The same for validation; without it a share is split off.")
@training_flags
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any other option, such as seed=7.")
@DRY_RUN
@WAIT
@NO_PLOT
@AS_JSON
def create(  # noqa: PLR0913 - click hands over one argument an option
    name: str | None,
    job_file: Path | None,
    base_model: str | None,
    training_data: str | None,
    validation_data: str | None,
    sets: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    no_plot: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Make the model NAME from a base model and training data.

    A dry run of data that would be refused has the exit status of the refusal.
    """
    data = {"training_data": training_data, "validation_data": validation_data}
    asked = _asked(job_file, {"model": name, "base_model": base_model, **data}, training_options(sets, flags))
    finetune, words = Client().finetune, (asked.model, asked.base_model, asked.training_data, asked.validation_data)
    if dry_run:
        tell_report(finetune.dry_run(*words, asked.options), as_json)
    tell_started(finetune.create(*words, asked.options), wait, no_plot, as_json)


@finetune.command("show")
@click.option("--limit", type=click.IntRange(1, 1000), default=1000, show_default=True, help="So many at the most.")
@click.option("--before", help="Those older than the job with this id.")
@AS_JSON
def show_jobs(limit: int, before: str | None, as_json: bool) -> None:
    """List the jobs, newest first."""
    found = Client().finetune.show(limit, before)
    jobs = [{**job, "progress": f"{job['progress']:.0%}"} if not as_json else job for job in found]
    columns = ("id", "status", "progress", "model", "base_model", "created_on")
    show(jobs, columns, as_json, "No fine-tuning jobs yet. `luthier finetune create` starts one.")


finetune.add_command(show_jobs, "list")


@finetune.command()
@click.argument("job_id")
@AS_JSON
def describe(job_id: str, as_json: bool) -> None:
    """Show one job: state, data report, losses, error."""
    described = Client().finetune.job(job_id).describe()
    _show_job(described, as_json)
    if not as_json and "faults" in described["report"]:  # jobs of the first version have another report
        click.echo()
        show_report(described["report"])


@finetune.command()
@click.argument("job_id")
def cancel(job_id: str) -> None:
    """Stop a job. What it trained so far is billed."""
    Client().finetune.job(job_id).cancel()
    click.echo(f"Cancelled job {job_id}.")


@finetune.command()
@click.argument("job_id")
@NO_PLOT
@AS_JSON
def watch(job_id: str, no_plot: bool, as_json: bool) -> None:
    """Follow a job to its end; exit status 1 unless it succeeds."""
    _follow(Client().finetune.job(job_id), no_plot, as_json)


@finetune.command()
@click.argument("job_id")
@AS_JSON
def events(job_id: str, as_json: bool) -> None:
    """Show what happened to a job."""
    show(Client().finetune.job(job_id).events(), ("time", "type", "message"), as_json, "No events.")


@finetune.command()
@click.argument("job_id")
@click.option("--plot", is_flag=True, help="Draw the loss curve.")
@click.option("--since-step", type=click.IntRange(0), default=0, help="Only steps after this one.")
@AS_JSON
def metrics(job_id: str, plot: bool, since_step: int, as_json: bool) -> None:
    """Show losses, learning rate and speed by step: all with --json, else a choice of them."""
    points = None if as_json else POINTS if plot else TABLE_ROWS
    columns = Client().finetune.job(job_id).metrics(since_step, points)
    if plot and len(columns["step"]) > 1:
        click.echo(loss_plot(columns, console.width, PLOT_HEIGHT))
        return
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    show(rows, SHOWN_METRICS, as_json, "No steps yet.")


@finetune.command()
@click.argument("job_id")
@AS_JSON
def answers(job_id: str, as_json: bool) -> None:
    """Show the answers to a job's eval_prompts, at each checkpoint so far."""
    empty = "No answers yet: they come with a job's checkpoints, if it has eval_prompts."
    show(Client().finetune.job(job_id).answers(), ("step", "prompt", "answer"), as_json, empty)


@finetune.command()
@click.argument("job_id")
@AS_JSON
def logs(job_id: str, as_json: bool) -> None:
    """Show the end of what a run's processes logged."""
    found = Client().finetune.job(job_id).logs()
    if as_json:
        show_one(found, as_json)
        return
    for name, text in found.items():
        click.echo(f"==> {name} <==\n{text}")
    if not found:
        click.echo("No logs yet.")


def _asked(job_file: Path | None, given: dict[str, str | None], options: dict[str, Any]) -> CreateJob:
    """What the command line says, over what the file says."""
    filed = read_toml(job_file, CreateJob).model_dump(exclude_none=True) if job_file else {}
    asked = {**filed, **{name: value for name, value in given.items() if value is not None}}
    asked["options"] = {**filed.get("options", {}), **options}
    for name, flag in (("model", "NAME"), ("base_model", "--base-model"), ("training_data", "--training-data")):
        if name not in asked:
            raise InvalidInput(f"{flag} is missing. `luthier finetune create NAME --base-model B --training-data SQL`")
    return CreateJob(**asked)


def tell_report(report: dict[str, Any], as_json: bool) -> NoReturn:
    """Of a dry run, which ends here."""
    if as_json:
        show_one(report, as_json)
    else:
        show_report(report)
    sys.exit(BadDataset.exit if report["faults"] else 0)


def tell_started(job: FinetuneJob, wait: bool, no_plot: bool, as_json: bool) -> None:
    if wait:
        click.echo(f"Job {job.id}", err=True)
        _follow(job, no_plot, as_json)
    elif as_json:
        show_one(job.describe(), as_json)
    else:
        click.echo(job.id)


def _follow(job: FinetuneJob, no_plot: bool, as_json: bool) -> None:
    try:
        ended: dict[str, Any] = watch_job(job, plot=not no_plot)
    except KeyboardInterrupt:
        click.echo(f"\nJob {job.id} goes on: `luthier finetune watch {job.id}`, or `cancel`.", err=True)
        sys.exit(INTERRUPTED)
    _show_job(ended, as_json)
    sys.exit(0 if ended["status"] == JobStatus.SUCCESS else 1)


def _show_job(described: dict[str, Any], as_json: bool) -> None:
    """For people without the data report, which has a view of its own."""
    shown = described if as_json else {name: value for name, value in described.items() if name != "report"}
    show_one(shown, as_json)
