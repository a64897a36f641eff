"""The first ten intents of banking77, by name: tables -> FINETUNE by the CLI, from a query with aliases -> matches.

python -m benchmarks.banking77 DATA [--epochs N] [--out FILE], where DATA has banking77's train.csv and test.csv.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.report import OUT, PACKAGES, heading, tell

BASE, MODEL = "smollm2-135m", "banking77_intents"
TRAIN, HELD_OUT = "banking77_train", "banking77_held_out"
NUM_INTENTS, ROWS_EACH = 10, 10
MAX_TOKENS = 24


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--epochs", default=2, show_default=True)
@OUT
def main(data: Path, epochs: int, out: Path | None) -> None:
    """Exits 1 below 95 of 100."""
    _load(data)
    base = _exact_matches(BASE)
    began = time.monotonic()
    job = _tune(epochs)
    minutes = (time.monotonic() - began) / 60
    tuned = _exact_matches(MODEL)
    tell(_report(base, tuned, job, minutes), out)
    sys.exit(0 if tuned >= 95 else 1)


def _load(data: Path) -> None:
    train = list(csv.DictReader((data / "train.csv").open()))
    intents = sorted({row["category"] for row in train})[:NUM_INTENTS]
    test = list(csv.DictReader((data / "test.csv").open()))
    held_out = [row for intent in intents for row in [each for each in test if each["category"] == intent][:ROWS_EACH]]
    with tempfile.TemporaryDirectory() as scratch:
        for name, rows in ((TRAIN, [row for row in train if row["category"] in intents]), (HELD_OUT, held_out)):
            file = Path(scratch) / f"{name}.csv"
            with file.open("w", newline="") as out:
                writer = csv.DictWriter(out, ["text", "category"])
                writer.writeheader()
                writer.writerows(rows)
            click.echo(_luthier("tables", "create", name, str(file), "--replace"))


def _tune(epochs: int) -> dict[str, Any]:
    if MODEL.upper() in {
        row["model"].split(".")[-1].upper() for row in json.loads(_luthier("models", "list", "--json"))
    }:
        _luthier("models", "drop", MODEL)
    query = f"SELECT text AS prompt, category AS completion FROM {TRAIN}"
    command = ["finetune", "create", MODEL, "--base-model", BASE, "--training-data", query]
    job: dict[str, Any] = json.loads(_luthier(*command, "--max-epochs", str(epochs), "--wait", "--json"))
    return job


def _exact_matches(model: str) -> int:
    call = f"SNOWFLAKE.CORTEX.COMPLETE('{model}', text, {{'temperature': 0, 'max_tokens': {MAX_TOKENS}}})"
    rows = json.loads(_luthier("sql", f"SELECT category, {call} AS answer FROM {HELD_OUT}", "--json"))
    return sum(json.loads(row["answer"])["choices"][0]["messages"] == row["category"] for row in rows)


def _luthier(*arguments: str) -> str:
    command = [sys.executable, "-m", "luthier.cli.main", *arguments]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def _report(base: int, tuned: int, job: dict[str, Any], minutes: float) -> str:
    speed = job["progress_details"]["tokens_per_second"]
    return f"""{heading(f"banking77, ten intents, {BASE}", PACKAGES)}

| | exact matches of {NUM_INTENTS * ROWS_EACH} held-out rows |
|---|---|
| {BASE} | {base} |
| {MODEL} | {tuned} |

{job["report"]["rows"]} training rows, {job["options"]["max_epochs"]} epochs, {job["trained_tokens"]} trained tokens in
{minutes:.1f} min from CREATE to SUCCESS ({speed:.0f} tokens/s while training); training loss
{job["training_result"]["training_loss"]:.4f}, validation loss {job["training_result"]["validation_loss"]:.4f}.
"""


if __name__ == "__main__":
    main()
