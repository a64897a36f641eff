"""Luthier's training loop against TRL's SFTTrainer on one CPU or GPU: useful tokens a second, memory, loss.

python -m benchmarks.train DATA --trl-path DIR [--base-dir DIR | --tiny] [--out FILE], where DATA has the folders
gsm8k, banking77 and self-instruct. README.md says how to make DIR: TRL is no dependency of Luthier.

One model, rank, targets, optimizer (AdamW, constant rate, gradients clipped at 1) and number of threads; the same
tokens, batches, order and learned tokens, rendered once by Luthier. A short screening round finds the best settings
of TRL; then Luthier and these alternate, each run in a fresh process. Pads do not count, nor does the first step.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import click
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import busy_seconds
from benchmarks.report import OUT, tell
from benchmarks.train_data import SETS, make_tiny, read_rows
from benchmarks.train_report import Runs, report
from benchmarks.train_worker import MODES, PRECISIONS, Result, Task
from luthier.platform.base_models import base_model_dir, load_catalog
from luthier.platform.settings import load_settings

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OURS = ("bf16 weights", "fp32")
SCREEN_STEPS = 3
QUIET, TRIES = 0.2, 40
"""A run counts when other processes took less than this share of the machine."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


@click.command()
@click.argument("data", type=FOLDER)
@click.option("--trl-path", type=FOLDER, required=True)
@click.option("--base-dir", type=FOLDER, help="smollm2-135m of the cache if left out.")
@click.option("--tiny", is_flag=True, help="A random Llama of 15 million weights.")
@click.option("--rows", "kind", type=click.Choice(["mixed", *SETS]), default="mixed", show_default=True)
@click.option("--mode", "modes", type=click.Choice(list(MODES)), multiple=True, help="Of TRL's, these alone; else all.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--batch-rows", default=8, show_default=True, help="Rows a step; a GPU wants more.")
@click.option("--steps", default=12, show_default=True)
@click.option(
    "--threads", default=os.cpu_count(), help="On a CPU, with 1 its clock counts, for machines with other work."
)
@click.option("--rounds", default=3, show_default=True)
@OUT
def main(data: Path, trl_path: Path, base_dir: Path | None, tiny: bool, kind: str, **options: Any) -> None:
    """Compares on DATA and prints the tables."""
    steps, batch_rows = options["steps"], options["batch_rows"]
    with tempfile.TemporaryDirectory() as scratch:
        base = make_tiny(Path(scratch) / "tiny-15m", data) if tiny else (base_dir or _smollm()).resolve()
        rows = read_rows(data, SETS if kind == "mixed" else (kind,), max(steps, SCREEN_STEPS) * batch_rows)
        file = Path(scratch) / "rows.parquet"
        pq.write_table(pa.table(dict(zip(("prompt", "completion"), zip(*rows, strict=True), strict=True))), file)
        known = {
            "base_dir": base,
            "rows_file": file,
            "steps": SCREEN_STEPS,
            "batch_rows": batch_rows,
            "device": _device(options["device"]),
            "threads": options["threads"],
        }
        screened: Runs = {each: [_run(each, trl_path)] for each in _tasks(known, options["modes"] or tuple(MODES))}
        alternated: Runs = {each.model_copy(update={"steps": steps}): [] for each in _finalists(screened)}
        for _ in range(options["rounds"]):
            for each, results in alternated.items():
                results.append(_run(each, trl_path))
    title = f"{base.name.split('@')[0]}, {kind} rows"
    tell(report(title, _clock(next(iter(alternated))), screened, alternated), options["out"])


def _smollm() -> Path:
    settings = load_settings()
    return base_model_dir(settings, load_catalog(settings).get("smollm2-135m"))


def _device(asked: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _tasks(known: dict[str, Any], modes: tuple[str, ...]) -> list[Task]:
    """All that is screened. On a GPU nobody trains in fp32."""
    left_out = {"fp32"} if known["device"] == "cuda" else set()
    ours = [("Luthier", "", precision) for precision in OURS]
    theirs = [("TRL", m, p) for m in modes for p in (("bf16 autocast",) if m == "default" else PRECISIONS)]
    return [
        Task.model_validate({"by": by, "mode": mode, "precision": precision, **known})
        for by, mode, precision in ours + theirs
        if precision not in left_out
    ]


def _clock(task: Task) -> str:
    if task.counts_cpu:
        return "The machine had other work: seconds are the CPU's."
    return f"Other processes took less than {QUIET:.0%} of the machine in each run."


def _run(task: Task, trl_path: Path) -> Result:
    """With many threads it waits for a quiet machine; what other processes disturbed all the same is done again."""
    for _ in range(TRIES):
        while not task.counts_cpu and psutil.cpu_percent(interval=5) > 100 * QUIET:
            pass
        busy, own, began = busy_seconds(), _children_seconds(), time.monotonic()
        result = _run_once(task, trl_path)
        others = busy_seconds() - busy - (_children_seconds() - own)
        share = others / (time.monotonic() - began) / (os.cpu_count() or 1)
        click.echo(
            f"{datetime.now(UTC):%H:%M:%S} {task.name}: {result.speed:.0f} tokens/s, mean loss "
            f"{mean(result.losses):.4f}, other processes {share:.0%}",
            err=True,
        )
        if task.counts_cpu or share < QUIET:
            return result
    raise click.ClickException(f"Other processes took {QUIET:.0%} of the machine or more, {TRIES} times.")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run_once(task: Task, trl_path: Path) -> Result:
    threads = {"OMP_NUM_THREADS": str(task.threads), "MKL_NUM_THREADS": str(task.threads)}
    path = {"PYTHONPATH": str(trl_path.resolve())} if task.by == "TRL" else {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if task.device == "cuda" else ""
    with tempfile.TemporaryDirectory() as scratch:
        asked, given = Path(scratch) / "task.json", Path(scratch) / "result.json"
        asked.write_text(task.model_dump_json())
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.train_worker", str(asked), str(given)],
            env={**os.environ, **ENVIRONMENT, **threads, **path, "CUDA_VISIBLE_DEVICES": seen, "TMPDIR": scratch},
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


if __name__ == "__main__":
    main()
