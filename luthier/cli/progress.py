"""A job's live progress bar: step, loss, tokens/s, time left. Plain lines when stderr is no terminal."""

from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from luthier.cli.client import FinetuneJob


def watch_job(job: FinetuneJob) -> dict[str, Any]:
    """Shows the job until it has ended; its last description."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    return _bar(job, console) if console.is_terminal else _lines(job)


def _bar(job: FinetuneJob, console: Console) -> dict[str, Any]:
    columns = (
        TextColumn("{task.fields[state]:<11}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    described: dict[str, Any] = {}
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(job.id, total=1.0, state="PENDING", facts="")
        for described in job.watch():
            facts = _facts(described["progress_details"])
            progress.update(task, completed=described["progress"], state=described["status"], facts=facts)
    return described


def _lines(job: FinetuneJob) -> dict[str, Any]:
    described: dict[str, Any] = {}
    shown = ""
    for described in job.watch():
        line = f"{described['status']} {_facts(described['progress_details'])}".rstrip()
        if line != shown:
            click.echo(line, err=True)
            shown = line
    return described


def _facts(progress: dict[str, Any]) -> str:
    if not progress["total_steps"]:
        return ""
    facts = [f"step {progress['step']}/{progress['total_steps']}"]
    for label, name in (("loss", "training_loss"), ("val", "validation_loss")):
        if progress[name] is not None:
            facts.append(f"{label} {progress[name]:.3f}")
    if progress["tokens_per_second"]:
        facts.append(f"{progress['tokens_per_second']:,.0f} tok/s")
    if progress["seconds_left"]:
        facts.append(f"{progress['seconds_left']:.0f} s left")
    return "  ".join(facts)
