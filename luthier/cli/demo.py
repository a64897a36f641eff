"""luthier demo: the whole story on a sample table, with the real base model. Reads downward."""

import json
import time
from contextlib import suppress
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from luthier.cli import cluster
from luthier.cli.client import Client
from luthier.cli.progress import watch_job
from luthier.errors import NotFound, TrainingFailed
from luthier.platform.jobs import JobStatus
from luthier.platform.settings import configs_dir, load_settings

BASE = "smollm2-135m"
MODEL = "ticket_writer"
TRAIN, HELD_OUT = "demo_messages", "demo_held_out"
TRAINING_QUERY = f"SELECT message AS prompt, ticket AS completion FROM {TRAIN}"
CREATE = f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE', '{MODEL}', '{BASE}', '{TRAINING_QUERY}')"
NUM_SHOWN = 3
MAX_TOKENS = 24


def run_demo(keep: bool) -> None:
    """Starts Luthier unless it is up, and stops what it started unless asked to keep it."""
    settings = load_settings()
    _say("Starting Luthier: Ray, the registry, and vLLM with the base model")
    started = cluster.up(settings, None, lambda text: click.echo(f"... {text}", err=True))
    try:
        _tell(Client())
    finally:
        if not keep and not started.was_up:
            _say("Stopping Luthier (keep it running with KEEP=1 or --keep)")
            cluster.down(settings, lambda text: click.echo(f"... {text}", err=True))


def _tell(client: Client) -> None:
    began = int(time.time() * 1000)
    _load_tables(client)
    _say(f"{BASE} answers {NUM_SHOWN} held-out messages, untuned")
    base = _answers(client, BASE)
    _show(base)
    _say(CREATE)
    job = _tune(client)
    _say(f"{MODEL} answers the same messages, from the same running engine")
    tuned = _answers(client, MODEL)
    _show(tuned)
    _compare(client, {BASE: base, MODEL: tuned}, job, began)
    _next_steps(job["id"])


def _load_tables(client: Client) -> None:
    samples = configs_dir() / "samples"
    for table, file in ((TRAIN, "workshop_train.jsonl"), (HELD_OUT, "workshop_test.jsonl")):
        made = client.tables.create(table, samples / file, replace=True)
        click.echo(f"Table {made['name']}: {made['num_rows']} rows, columns {', '.join(made['columns'])}")


def _answers(client: Client, model: str) -> list[dict[str, Any]]:
    """A model's answer to every held-out row, by one SQL statement."""
    call = f"SNOWFLAKE.CORTEX.COMPLETE('{model}', message, {{'temperature': 0, 'max_tokens': {MAX_TOKENS}}})"
    rows = client.sql(f"SELECT message, ticket, {call} AS answer FROM {HELD_OUT}").to_pylist()
    return [{**row, "answer": json.loads(row["answer"])["choices"][0]["messages"]} for row in rows]


def _tune(client: Client) -> dict[str, Any]:
    with suppress(NotFound):
        client.models.drop(MODEL)  # of an earlier demo
    job_id = client.sql(CREATE).column(0)[0].as_py()
    job = watch_job(client.finetune.job(job_id))
    if job["status"] != JobStatus.SUCCESS:
        raise TrainingFailed(f"Job {job_id} ended as {job['status']}: {job.get('error', {}).get('message', '')}")
    return job


def _show(rows: list[dict[str, Any]]) -> None:
    for row in rows[:NUM_SHOWN]:
        for label, text in (("message", row["message"]), ("wanted", row["ticket"]), ("answer", row["answer"])):
            click.echo(f"  {label:<8} {' '.join(text.split())}")
        click.echo()


def _compare(client: Client, answers: dict[str, list[dict[str, Any]]], job: dict[str, Any], began: int) -> None:
    used = {row["model"].split(".")[-1]: row for row in client.usage("completions", since=began, group_by=["model"])}
    billed = client.usage("finetuning", since=began)[-1]
    columns = ("model", "held-out rows right", "accuracy", "trained tokens", "prompt tokens", "completion tokens")
    table = Table(*columns, "credits: training", "credits: completions", box=box.SIMPLE_HEAD)
    for model, rows in answers.items():
        right = sum(row["answer"] == row["ticket"] for row in rows)
        trained, paid = (job["trained_tokens"], billed["credits"]) if model == MODEL else (0, "0")
        counts = [trained, used[model]["prompt_tokens"], used[model]["completion_tokens"]]
        accuracy = f"{right / len(rows):.1%}"
        table.add_row(model, f"{right}/{len(rows)}", accuracy, *map(str, counts), paid, used[model]["credits"])
    Console(width=150, highlight=False, markup=False, emoji=False).print(table)


def _next_steps(job_id: str) -> None:
    click.echo("Go on with (after `luthier up`, or in a demo that was kept):")
    for command in (
        f"luthier complete {MODEL} 'The A peg of my viola slips whenever I tune it'",
        f"luthier sql \"SELECT message, SNOWFLAKE.CORTEX.COMPLETE('{MODEL}', message) FROM {HELD_OUT} LIMIT 5\"",
        f"luthier finetune describe {job_id}",
        f"luthier models artifacts {MODEL}",
        "luthier usage credits --group-by model",
        "luthier tables create my_data my_file.csv",
    ):
        click.echo(f"  {command}")


def _say(text: str) -> None:
    click.secho(f"\n== {text}", bold=True)
