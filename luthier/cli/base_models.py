"""luthier base-models list | show | fetch."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from luthier.cli.client import Client
from luthier.cli.options import AS_JSON
from luthier.cli.render import show, show_one, tell
from luthier.platform.base_models import load_catalog
from luthier.platform.settings import load_settings
from luthier.platform.storage import num_bytes

COLUMNS = ("name", "size", "window", "licence", "price_class", "tasks", "state")
TASKS = {"CHAT_COMPLETION": "chat", "INSTRUCTION_FINETUNE": "instruct", "CONTINUED_PRETRAIN": "cpt", "DPO": "dpo"}
LOOK_SECONDS = 0.5


@click.group("base-models")
def base_models() -> None:
    """Base models: what can be tuned and served."""


@base_models.command("list")
@click.option("--all", "include_retired", is_flag=True, help="Retired ones too.")
@AS_JSON
def list_base_models(include_retired: bool, as_json: bool) -> None:
    """List the catalog. Tasks: chat, instruct, cpt (continued pretraining), dpo."""
    rows = Client().base_models(include_retired)
    show(rows if as_json else [_line(row) for row in rows], COLUMNS, as_json, "The catalog is empty.")


@base_models.command("show")
@click.argument("base_model")
@AS_JSON
def show_base_model(base_model: str, as_json: bool) -> None:
    """Show one base model, by its name, an alias or its Hugging Face name."""
    show_one(Client().base_model(base_model), as_json)


@base_models.command()
@click.argument("base_model")
@AS_JSON
def fetch(base_model: str, as_json: bool) -> None:
    """Fetch the weights of a base model onto this machine, unless they are there."""
    from luthier.cli import cluster

    settings = load_settings()
    base = load_catalog(settings).get(base_model)
    with _progress(settings.cache / "base_models", base.name) as say:
        folder = cluster.fetch_base_model(settings, base, say)
    size = num_bytes(folder)
    fetched = {"base_model": base.name, "folder": str(folder), "bytes": size}
    tell(fetched, f"Base model {base.name} is in {folder} ({size / 1e9:.2f} GB).", as_json)


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of a row."""
    tasks = " ".join(TASKS.get(task, task) for task in row["tasks"]) if len(row["tasks"]) < len(TASKS) else "all"
    tasks = tasks if row["methods"] else "served only"
    return {
        **row,
        "size": _size(row["parameters"]),
        "window": row["context_window"],
        "tasks": tasks,
        "state": _state(row),
    }


def _size(parameters: int | None) -> str:
    if parameters is None:
        return ""
    return f"{parameters / 1e9:.3g}B" if parameters >= 10**9 else f"{parameters / 1e6:.3g}M"


def _state(row: dict[str, Any]) -> str:
    if row["is_retired"]:
        return "retired"
    if row["retired"]:
        return f"to {row['retired']['after']}"
    return "served" if row["served"] else "fetched" if row["fetched"] else ""


@contextmanager
def _progress(folder: Path, name: str) -> Iterator[Callable[[str], None]]:
    """Says things on stderr; on a terminal above a line with the bytes that have come into the folder."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        yield lambda text: click.echo(f"... {text}", err=True)
        return
    columns = (SpinnerColumn(), TextColumn(name), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    before, done = num_bytes(folder), threading.Event()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None)

        def look() -> None:
            while not done.wait(LOOK_SECONDS):
                progress.update(task, completed=num_bytes(folder) - before)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield lambda text: console.print(f"... {text}")
        finally:
            done.set()
            watcher.join()
            progress.update(task, completed=num_bytes(folder) - before)
