"""A job as it goes: its events, a bar with step, loss, speed and time left, and the loss curve.

Plain lines when stderr is no terminal.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from luthier.cli.client import FinetuneJob
from luthier.cli.plots import loss_plot
from luthier.errors import Unavailable

PLOT_SECONDS = 2.0
PLOT_HEIGHT = 12
POINTS = 500


def watch_job(job: FinetuneJob, plot: bool = True) -> dict[str, Any]:
    """Shows the job until it has ended; its last description."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        _show_live(job, console, plot and console.encoding.startswith("utf"))
    else:
        _show_lines(job)
    return job.described()


def _show_live(job: FinetuneJob, console: Console, plot: bool) -> None:
    bar = Progress(
        TextColumn("{task.fields[state]:<11}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task(job.id, total=1.0, state="PENDING", facts="")
    curve = _Curve(job, console) if plot else None
    with Live(bar, console=console, refresh_per_second=4) as live:
        for kind, news in job.follow():
            if kind == "event":
                console.print(_event_line(news), style="dim")
            else:
                facts = facts_of(news["progress_details"])
                bar.update(task, completed=news["progress"], state=news["status"], facts=facts)
            if curve:
                live.update(Group(curve.drawn(), bar))


def _show_lines(job: FinetuneJob) -> None:
    """A line an event, a new state, and a whole percent."""
    shown: tuple[Any, ...] = ()
    for kind, news in job.follow():
        mark = (news.get("status"), int(100 * news.get("progress", 0)))
        if kind == "event":
            click.echo(_event_line(news), err=True)
        elif mark != shown:
            shown = mark
            click.echo(f"{news['status']} {facts_of(news['progress_details'])}".rstrip(), err=True)


class _Curve:
    """The loss curve of a run, read again from time to time."""

    def __init__(self, job: FinetuneJob, console: Console) -> None:
        self._job, self._console = job, console
        self._plot: RenderableType = ""
        self._read = float("-inf")

    def drawn(self) -> RenderableType:
        if time.monotonic() - self._read >= PLOT_SECONDS:
            self._read = time.monotonic()
            try:
                metrics = self._job.metrics(points=POINTS)
            except Unavailable:  # the old curve stays until the server is back
                return self._plot
            if len(metrics["step"]) > 1:
                self._plot = Text.from_ansi(loss_plot(metrics, self._console.width, PLOT_HEIGHT))
        return self._plot


@contextmanager
def transfer(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr for bytes that are there, of all."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (
        TextColumn(name, markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def facts_of(progress: dict[str, Any]) -> str:
    if not progress["total_steps"]:
        return ""
    facts = [f"step {progress['step']}/{progress['total_steps']}"]
    for label, name in (("loss", "training_loss"), ("val", "validation_loss")):
        if progress[name] is not None:
            facts.append(f"{label} {progress[name]:.3f}")
    if progress["tokens_per_second"]:
        facts.append(f"{progress['tokens_per_second']:,.0f} tok/s")
    if progress.get("mfu"):
        facts.append(f"MFU {progress['mfu']:.0%}")
    if progress["seconds_left"]:
        facts.append(f"{timedelta(seconds=round(progress['seconds_left']))} left")
    return "  ".join(facts)


def _event_line(event: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(event["time"] / 1000))
    return f"{at} {event['type']} {event['message']}"
