"""Luthier's training loop against TRL's SFTTrainer on a CPU: useful tokens a second, memory, loss.

python -m benchmarks.train DATA --trl-path DIR [--base-dir DIR | --tiny] [--out FILE], where DATA has the folders
gsm8k, banking77 and self-instruct. README.md says how to make DIR: TRL is no dependency of Luthier.

One model, rank, targets, optimizer (AdamW, constant rate, gradients clipped at 1) and number of threads; the same
tokens, batches, order and learned tokens, rendered once by Luthier. A short screening round finds the best settings
of TRL; then Luthier and these alternate, each run in a fresh process. Pads do not count, nor does the first step.
"""

import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.train_data import SETS, make_tiny, read_rows
from benchmarks.train_worker import BATCH_SIZE, LEARNING_RATE, MODES, PRECISIONS, RANK, Result, Task
from luthier.platform.base_models import base_model_dir, load_catalog
from luthier.platform.settings import load_settings

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OURS = ("bf16 weights", "fp32")
SCREEN_STEPS = 3
QUIET, TRIES = 0.2, 40
"""A run counts when other processes took less than this share of the machine."""
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
Runs = dict[Task, list[Result]]


@click.command()
@click.argument("data", type=FOLDER)
@click.option("--trl-path", type=FOLDER, required=True)
@click.option("--base-dir", type=FOLDER, help="smollm2-135m of the cache if left out.")
@click.option("--tiny", is_flag=True, help="A random Llama of 15 million weights.")
@click.option("--rows", "kind", type=click.Choice(["mixed", *SETS]), default="mixed", show_default=True)
@click.option("--mode", "modes", type=click.Choice(list(MODES)), multiple=True, help="Of TRL's, these alone; else all.")
@click.option("--steps", default=12, show_default=True)
@click.option("--threads", default=os.cpu_count(), help="With 1 the CPU's clock counts, for machines with other work.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path))
def main(data: Path, trl_path: Path, base_dir: Path | None, tiny: bool, kind: str, **options: Any) -> None:
    """Compares on DATA and prints the tables."""
    steps, threads, out = options["steps"], options["threads"], options["out"]
    with tempfile.TemporaryDirectory() as scratch:
        base = make_tiny(Path(scratch) / "tiny-15m", data) if tiny else (base_dir or _smollm()).resolve()
        rows = read_rows(data, SETS if kind == "mixed" else (kind,), max(steps, SCREEN_STEPS) * BATCH_SIZE)
        file = Path(scratch) / "rows.parquet"
        pq.write_table(pa.table(dict(zip(("prompt", "completion"), zip(*rows, strict=True), strict=True))), file)

        def task(by: str, mode: str, precision: str) -> Task:
            known = {"base_dir": base, "rows_file": file, "steps": SCREEN_STEPS, "threads": threads}
            return Task.model_validate({"by": by, "mode": mode, "precision": precision, **known})

        modes = options["modes"] or MODES
        theirs = [(m, p) for m in modes for p in (("bf16 autocast",) if m == "default" else PRECISIONS)]
        tasks = [task("Luthier", "", p) for p in OURS] + [task("TRL", mode, p) for mode, p in theirs]
        screened: Runs = {each: [_run(each, trl_path)] for each in tasks}
        alternated: Runs = {each.model_copy(update={"steps": steps}): [] for each in _finalists(screened)}
        for _ in range(options["rounds"]):
            for each, results in alternated.items():
                results.append(_run(each, trl_path))
    text = _report(f"{base.name.split('@')[0]}, {kind} rows", screened, alternated)
    click.echo(text)
    if out:
        out.write_text(text)


def _smollm() -> Path:
    settings = load_settings()
    return base_model_dir(settings, load_catalog(settings).get("smollm2-135m"))


def _run(task: Task, trl_path: Path) -> Result:
    """With many threads it waits for a quiet machine; what other processes disturbed all the same is done again."""
    is_shared = task.threads == 1
    for _ in range(TRIES):
        while not is_shared and psutil.cpu_percent(interval=5) > 100 * QUIET:
            pass
        busy, own, began = _busy_seconds(), _children_seconds(), time.monotonic()
        result = _run_once(task, trl_path)
        others = _busy_seconds() - busy - (_children_seconds() - own)
        share = others / (time.monotonic() - began) / (os.cpu_count() or 1)
        click.echo(
            f"{datetime.now(UTC):%H:%M:%S} {task.name}: {result.speed:.0f} tokens/s, mean loss "
            f"{mean(result.losses):.4f}, other processes {share:.0%}",
            err=True,
        )
        if is_shared or share < QUIET:
            return result
    raise click.ClickException(f"Other processes took {QUIET:.0%} of the machine or more, {TRIES} times.")


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run_once(task: Task, trl_path: Path) -> Result:
    threads = {"OMP_NUM_THREADS": str(task.threads), "MKL_NUM_THREADS": str(task.threads)}
    path = {"PYTHONPATH": str(trl_path.resolve())} if task.by == "TRL" else {}
    with tempfile.TemporaryDirectory() as scratch:
        asked, given = Path(scratch) / "task.json", Path(scratch) / "result.json"
        asked.write_text(task.model_dump_json())
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.train_worker", str(asked), str(given)],
            env={**os.environ, **ENVIRONMENT, **threads, **path, "TMPDIR": scratch},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise click.ClickException(f"{task.name} failed:\n{done.stderr[-4000:]}")
        return Result.model_validate_json(given.read_text())


def _finalists(screened: Runs) -> list[Task]:
    """Luthier's best, TRL's best with the same batches and, where it is another one, TRL's best at all."""

    def best(tasks: list[Task]) -> Task:
        return max(tasks, key=lambda task: screened[task][0].speed)

    theirs = [task for task in screened if task.by == "TRL"]
    chosen = [
        best([task for task in screened if task.by == "Luthier"]),
        best([task for task in theirs if task.has_same_batches]),
        best(theirs),
    ]
    return list(dict.fromkeys(chosen))


def _report(title: str, screened: Runs, alternated: Runs) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "accelerate"))
    first, rounds = next((task, len(results)) for task, results in alternated.items())
    others = f"Other processes took less than {QUIET:.0%} of the machine in each run."
    clock = "The machine had other work: seconds are the CPU's." if first.threads == 1 else others
    return f"""# Training: Luthier against TRL, {title}

{datetime.now(UTC):%Y-%m-%d}, commit {_commit()}, {_machine()}, threads: {first.threads}; {packages}, TRL 1.16

LoRA rank {RANK} on all linear modules, {BATCH_SIZE} rows a step, learning rate {LEARNING_RATE}, the same rows for all.
{clock} Batches "same" are Luthier's, in
its order: their losses can be compared. In other batches they cannot.

## Alternating, {rounds} rounds of {first.steps} steps

{_table(alternated)}

{_ratios(alternated)}

## Screening, one round of {SCREEN_STEPS} steps

{_table(screened)}
"""


def _table(runs: Runs) -> str:
    head = ("", "useful tokens/s", "peak RSS, MiB", "pads", "batches", "mean loss", "last loss")
    lines = [head, ("---",) * len(head)]
    for task, results in runs.items():
        speeds, last = _speeds(results), results[-1]
        spread = f" ({min(speeds):.0f} to {max(speeds):.0f})" if len(speeds) > 1 else ""
        line = (
            task.name,
            f"{median(speeds):.0f}{spread}",
            f"{max(result.peak_mib for result in results)}",
            f"{sum(last.pads) / sum(last.tokens + last.pads):.0%}",
            "same" if task.has_same_batches else f"{len(last.losses)} others",
            f"{mean(last.losses):.4f}",
            f"{last.losses[-1]:.4f}",
        )
        lines.append(line if task.has_same_batches else (*line[:5], *(f"({loss})" for loss in line[5:])))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratios(alternated: Runs) -> str:
    (_, ours), *others = [(task, _speeds(results)) for task, results in alternated.items()]
    lines = []
    for task, speeds in others:
        pairs = [a / b for a, b in zip(ours, speeds, strict=True)]
        ratio = median(ours) / median(speeds)
        lines.append(
            f"Luthier / {task.name}: **{ratio:.2f}** of the medians, {min(pairs):.2f} to {max(pairs):.2f} a round."
        )
    return "\n".join(lines)


def _speeds(results: list[Result]) -> list[float]:
    return [result.speed for result in results]


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(
        command, cwd=Path(__file__).parent, text=True, capture_output=True, check=False
    ).stdout.strip()


def _machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} x {found[1] if found else platform.machine()}"


if __name__ == "__main__":
    main()
