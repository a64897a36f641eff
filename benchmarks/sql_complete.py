"""SQL's COMPLETE over a table against vLLM's offline LLM.generate over the same prompts: rows and tokens a second.

python -m benchmarks.sql_complete [--model tiny | smollm2-135m | DIR] [--rows N] [--out FILE], on a CPU. One model, the
same engine arguments, prompts and sampling (greedy); the sides alternate, one at a time, each in processes of its own.
Luthier's time is the client's, from the request with the statement to the last row; generate's is that call alone.
SQL has no ignore_eos: both sides end an answer where the model does, so tokens are told beside rows.
"""

import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import counted, end
from benchmarks.report import OUT, tell
from benchmarks.serve_run import beyond, settled
from benchmarks.serve_setup import engine_options, prepare, told
from benchmarks.serve_sides import BASE, PEER, ROOT, Setup, luthier
from benchmarks.serve_traffic import texts
from benchmarks.sql_offline import RUNS, Run, Task
from benchmarks.sql_report import OURS, report
from luthier.cli.client import Client
from luthier.cli.profile import load_profile
from luthier.platform.data.prompts import load_prompts

TABLE = "bench_rows"
WARM_SEED = 10**6
TRIES = 4
STATEMENT = "SELECT SNOWFLAKE.CORTEX.COMPLETE('{model}', prompt, {{'max_tokens': {tokens}}}) AS answer FROM {table}"
"""COMPLETE's default is greedy. With options it tells the counts."""
ADAPTERS = ("enable_lora", "worker_extension_cls", "max_loras", "max_cpu_loras", "max_lora_rank")
"""Engine arguments that a script without adapters leaves out."""

Prompts = tuple[str, ...]
Found = tuple[tuple[Run, ...], str]
"""Runs, and a word on the ledger."""
Side = Callable[[Setup, Prompts, Sequence[Prompts], int], Found]
"""Warms up with some prompts, then answers others with so many tokens each."""


@click.command()
@click.option("--model", default="tiny", show_default=True, help="tiny, smollm2-135m or a folder.")
@click.option("--rows", default=512, show_default=True, help="Of the table.")
@click.option("--tokens", default=32, show_default=True, help="Of an answer, at most.")
@click.option("--rounds", default=2, show_default=True, help="Starts of each side; best an even number.")
@click.option("--statements", default=3, show_default=True, help="One after another, on each start.")
@click.option(
    "--reserved",
    multiple=True,
    type=click.IntRange(0),
    default=[0, 1],
    show_default=True,
    help="CPUs that vLLM keeps free of its threads; a side for each.",
)
@click.option("--without-adapters", is_flag=True, help="The peers' engines are started without LoRA.")
@engine_options
@OUT
def main(model: str, out: Path | None, **options: Any) -> None:
    """Compares and prints the table."""
    left_out = ADAPTERS if options["without_adapters"] else ()
    sides = {OURS: _luthier} | {_name(kept, left_out): _offline(kept, left_out) for kept in options["reserved"]}
    runs: dict[str, list[Run]] = defaultdict(list)
    ledgers: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        setup = prepare(model, Path(scratch), {"adapters": (0,), "base_models": 1, **options})
        note = told({name: options[name] for name in ("rows", "tokens", "rounds", "statements")} | setup.engine)
        for turn in range(options["rounds"]):
            warm, asked = _prompts(options, turn)
            for name, side in list(sides.items())[:: 1 if turn % 2 == 0 else -1]:
                found, ledger = _undisturbed(name, partial(side, setup, warm, asked, options["tokens"]))
                runs[name] += found
                ledgers += [ledger] if ledger else []
    tell(report(Path(model).name, note, {name: runs[name] for name in sides}, ledgers), out)


def _undisturbed(name: str, side: Callable[[], Found]) -> Found:
    """What a start finds; once more, when other processes took CPUs meanwhile."""
    for _ in range(TRIES):
        found, ledger = side()
        told = ", ".join(f"{run.speed:.1f}{' (disturbed)' if run.is_disturbed else ''}" for run in found)
        click.echo(f"{datetime.now(UTC):%H:%M:%S} {name}: {told} rows/s {ledger}", err=True)
        if not any(run.is_disturbed for run in found):
            return found, ledger
    raise click.ClickException(f"{name}: other processes disturbed it {TRIES} times.")


def _prompts(options: dict[str, Any], turn: int) -> tuple[Prompts, list[Prompts]]:
    """For warming up, and of each statement: none is asked twice of one start, so no cached prefix helps."""
    warm = texts(options["max_num_seqs"], options["statements"], WARM_SEED + turn)
    asked = [texts(options["rows"], number, turn) for number in range(options["statements"])]
    return tuple(warm), [tuple(each) for each in asked]


def _luthier(setup: Setup, warm: Prompts, asked: Sequence[Prompts], tokens: int) -> Found:
    with luthier(setup) as running:
        profile = load_profile(setup.settings)
        assert profile is not None
        client = Client(profile.url, profile.api_key)
        _statement(client, running.mark, warm, tokens)
        before = settled(running)
        runs = tuple(_statement(client, running.mark, prompts, tokens) for prompts in asked)
        counted = sum(run.prompt_tokens for run in runs), sum(run.completion_tokens for run in runs)
        more = beyond(running, before, counted)
    return runs, "exact" if more == (0, 0) else f"off by {more}"


def _statement(client: Client, mark: str, prompts: Prompts, tokens: int) -> Run:
    """One over a table of these rows."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.parquet"
        pq.write_table(pa.table({"prompt": prompts}), file)
        client.tables.create(TABLE, file, replace=True)
    with counted(mark) as cpu:
        began = time.perf_counter()
        rows = client.sql(STATEMENT.format(model=BASE, tokens=tokens, table=TABLE))
        seconds = time.perf_counter() - began
    return _read(rows.column("answer").to_pylist(), seconds, cpu)


def _read(answers: list[str], seconds: float, cpu: dict[str, float]) -> Run:
    read = [json.loads(answer) for answer in answers]
    return Run(
        seconds=seconds,
        prompt_tokens=sum(each["usage"]["prompt_tokens"] for each in read),
        completion_tokens=sum(each["usage"]["completion_tokens"] for each in read),
        answers=tuple(each["choices"][0]["messages"] for each in read),
        cpu=cpu,
    )


def _name(reserved: int, left_out: Sequence[str]) -> str:
    return f"generate, {reserved} CPUs kept{', no adapters' if left_out else ''}"


def _offline(reserved: int, left_out: Sequence[str]) -> Side:
    """A script that keeps so many CPUs free of vLLM's threads and leaves out these engine arguments."""

    def run(setup: Setup, warm: Prompts, asked: Sequence[Prompts], tokens: int) -> Found:
        mark, engine = f"offline-{uuid.uuid4()}", setup.engine
        given = {name: value for name, value in engine.items() if name not in left_out}
        chat = load_prompts(Path(str(engine["model"])))

        def templated(prompts: Prompts) -> Prompts:
            return tuple(chat.chat_text([{"role": "user", "content": text}]) for text in prompts)

        task = Task(engine=given, warm=templated(warm), asked=tuple(map(templated, asked)), tokens=tokens, mark=mark)
        env = setup.environment(mark) | PEER | {"VLLM_CPU_NUM_OF_RESERVED_CPU": str(reserved)}
        return _in_a_process(task, env), ""

    return run


def _in_a_process(task: Task, env: dict[str, str]) -> tuple[Run, ...]:
    with tempfile.TemporaryDirectory() as scratch:
        asked, given = Path(scratch) / "task.json", Path(scratch) / "runs.json"
        asked.write_text(task.model_dump_json())
        command = [sys.executable, "-m", "benchmarks.sql_offline", str(asked), str(given)]
        try:
            done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        finally:
            end(task.mark)
        if done.returncode:
            raise click.ClickException(f"generate failed:\n{done.stderr[-3000:]}")
        return RUNS.validate_json(given.read_bytes())


if __name__ == "__main__":
    main()
