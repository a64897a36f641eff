"""One measurement of the serving benchmark: warm up, load, look at the ledger and the counters."""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx

from benchmarks.processes import engine_facts
from benchmarks.serve_load import Load, Plan, closed_loop
from benchmarks.serve_sides import ROOT, Running
from benchmarks.serve_traffic import Point, asked_models, texts
from luthier.platform.frozen import Frozen

LEDGER_SECONDS = 10.0
"""So long usage may be on its way to the ledger."""
STEADY_SECONDS = 0.5
WARM_SEED = 10**6
COUNTER = re.compile(r"^([\w:]*(?:lora|adapter)[\w:]*_total)(?:\{[^}]*\})? (\S+)", re.MULTILINE)
"""A line of Prometheus' text that counts something of adapters."""


@dataclass(frozen=True)
class Amount:
    requests: int
    """Of a measurement, for a point that is neither slow nor broad."""
    tokens: int
    """Of an answer."""
    body: dict[str, Any]
    """More keys of each body."""


class Run(Frozen):
    """One side under one load, once."""

    load: Load
    ledger: tuple[int, int] | None
    """Prompt and completion tokens that it counted beyond the client's; None without a ledger."""
    counters: dict[str, float]
    """What the side counted of adapters meanwhile, if it tells."""
    facts: str
    """How its engine ran."""

    @property
    def speed(self) -> float:
        """Answers a second."""
        return len(self.load.latencies) / self.load.seconds

    @property
    def told(self) -> str:
        errors = f", {len(self.load.errors)} errors: {self.load.errors[0]}" if self.load.errors else ""
        ledger = f", ledger off by {self.ledger}" if self.ledger and any(self.ledger) else ""
        return f"{self.speed:.1f} requests/s{ledger}{errors}"


def run_point(
    running: Running, url: str, point: Point, names: list[str], amount: Amount, seeds: tuple[int, int]
) -> Run:
    """`seeds`: of the texts and models, another for each point of a start; and the lead of this door's texts."""
    seed, lead = seeds
    num = point.num_requests(amount.requests)
    plan = Plan(
        url=url,
        headers=running.headers,
        models=tuple(asked_models(names, point.traffic, num, seed)),
        texts=tuple(texts(num, lead, seed)),
        tokens=amount.tokens,
        extra=amount.body,
        concurrency=point.concurrency,
        streamed=point.streamed,
        mark=running.mark,
    )
    _warm(plan, names, (seed, lead))
    before, counters = settled(running), _counters(running)
    load = _load(plan)
    ledger = beyond(running, before, (load.prompt_tokens, load.completion_tokens))
    after = _counters(running)
    counted = {name: value - counters.get(name, 0.0) for name, value in after.items()}
    return Run(load=load, ledger=ledger, counters=counted, facts=engine_facts(running.mark))


def _warm(plan: Plan, names: list[str], seeds: tuple[int, int]) -> None:
    """As many at once, each model at least once. Whoever refuses here refuses the benchmark's bodies."""
    seed, lead = seeds
    num = max(plan.concurrency, len(names))
    asked = {
        "models": tuple(asked_models(names, "even", num, seed)),
        "texts": tuple(texts(num, lead, seed + WARM_SEED)),
    }
    _, answers = asyncio.run(closed_loop(plan.model_copy(update=asked)))
    if error := next((answer.error for answer in answers if answer.error), ""):
        raise click.ClickException(f"{plan.url}: {error}")


def _load(plan: Plan) -> Load:
    with tempfile.TemporaryDirectory() as scratch:
        asked, given = Path(scratch) / "plan.json", Path(scratch) / "load.json"
        asked.write_text(plan.model_dump_json())
        command = [sys.executable, "-m", "benchmarks.serve_load", str(asked), str(given)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(f"The load failed:\n{done.stderr[-3000:]}")
        return Load.model_validate_json(given.read_text())


def settled(running: Running) -> tuple[int, int]:
    """The ledger's counts, once they stand still."""
    if running.ledger is None:
        return 0, 0
    counts = running.ledger()
    while True:
        time.sleep(STEADY_SECONDS)
        if (now := running.ledger()) == counts:
            return counts
        counts = now


def beyond(running: Running, before: tuple[int, int], counted: tuple[int, int]) -> tuple[int, int] | None:
    """What the ledger counted more than the client did, in the end."""
    if running.ledger is None:
        return None
    deadline = time.monotonic() + LEDGER_SECONDS
    while True:
        prompt, completion = running.ledger()
        more = prompt - before[0] - counted[0], completion - before[1] - counted[1]
        if more == (0, 0) or time.monotonic() > deadline:
            return more
        time.sleep(STEADY_SECONDS)


def _counters(running: Running) -> dict[str, float]:
    try:
        answer = httpx.get(running.metrics, headers=running.headers, timeout=10)
    except httpx.HTTPError:
        return {}
    return counters(answer.text) if answer.status_code == 200 else {}


def counters(text: str) -> dict[str, float]:
    """Of adapters, summed over labels, out of Prometheus' text."""
    sums: dict[str, float] = defaultdict(float)
    for name, value in COUNTER.findall(text):
        sums[name] += float(value)
    return dict(sums)
