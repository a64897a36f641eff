"""The registry's verbs over few rows and over many: SHOW, DESCRIBE, submit, and usage in batches.

python -m benchmarks.registry [--sizes 1000,100000,1000000] [--rounds N] [--url URL] [--out FILE], with nothing else on
the machine. The class behind the actor, in this process, over a fresh SQLite, or over the empty PostgreSQL of --url.
All rows are of one account: ended jobs with their events, and as many records of usage.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import sqlalchemy as sa

from benchmarks.report import OUT, heading, tell
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.jobs import Job, JobStatus
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.options import FinetuneOptions
from luthier.platform.queue import Capacity
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import Selection
from luthier.platform.settings import Settings
from luthier.platform.store import Store

ME = Caller(account="main", user=ADMIN_USER, role=ADMIN_ROLE)
FILL = 10_000
"""Rows of one transaction."""
BATCH, NUM_BATCHES = 1_000, 20
"""Records as a replica sends them at most, and how many batches a round has."""
DAY_MS = 86_400_000
VERBS = ("SHOW", "DESCRIBE", "events", "census", "submit", "ingest", "metering")
GOAL_RATIO, GOAL_RECORDS = 1.5, 20_000
"""DESIGN.md's: p50 at the most rows against that at the fewest; records a second."""


class Idle:
    """A launcher of a cluster without room."""

    def capacity(self) -> Capacity:
        return Capacity(jobs=0, workers=4, unit="CPU", memory=None)

    def is_alive(self, job_id: str) -> bool:
        return True

    def launch(self, job_id: str, capacity: Capacity) -> None:
        raise AssertionError(job_id)

    def stop(self, job_id: str) -> None:
        return


class Measured(NamedTuple):
    size: int
    seconds: dict[str, float]
    """The p50 of each verb; of `ingest` for one batch."""

    @property
    def records_per_second(self) -> float:
        return BATCH / self.seconds["ingest"]


@click.command()
@click.option("--sizes", default="1000,100000,1000000", show_default=True, help="Rows, the fewest first.")
@click.option("--rounds", default=30, show_default=True, help="Of each verb.")
@click.option("--url", default="", help="Of an empty PostgreSQL; SQLite otherwise.")
@OUT
def main(sizes: str, rounds: int, url: str, out: Path | None) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), database_url=url)
        registry, store = Registry(settings, Idle()), Store(settings.store_url)
        registry.access.add_admin_key(ME.account, "hash", "lt_ben")
        measured = []
        filled = 0
        for size in map(int, sizes.split(",")):
            fill(store, filled, size)
            filled = size
            measured.append(Measured(size, measure(registry, size, rounds)))
            click.echo(f"{size} rows measured", err=True)
        dialect = store.engine.dialect.name
    tell(_text(measured, dialect, rounds), out)


def fill(store: Store, start: int, stop: int) -> None:
    """Rows from a number on; what earlier rounds submitted stays beside them."""
    for first in range(start, stop, FILL):
        numbers = range(first, min(first + FILL, stop))
        with store.transaction() as tx:
            tx.execute(sa.insert(store.table("jobs")), [_job(f"ft_{number}", number, ended=True) for number in numbers])
            tx.execute(sa.insert(store.table("events")), [_event(number) for number in numbers])
            rows = [_record(f"filled_{number}", number).model_dump(mode="json") for number in numbers]
            tx.execute(sa.insert(store.table("usage")), rows)
    if store.engine.dialect.name == "postgresql":  # it does so by itself, some time; SQLite never does
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")


def measure(registry: Registry, size: int, rounds: int) -> dict[str, float]:
    """The p50 of each verb in seconds."""
    names = iter(range(sys.maxsize))

    def submit() -> None:
        name = f"ft_new_{size}_{next(names)}"
        row = _job(name, size, ended=False)
        registry.jobs.submit(Job(**{field: row[field] for field in Job.model_fields if field in row}), name)

    def ingest(batch: list[UsageRecord]) -> None:
        assert registry.ledger.append(batch) == BATCH

    batches = _batches(size)
    since = size - 1
    verbs: dict[str, Callable[[], object]] = {
        "SHOW": lambda: registry.jobs.show(ME),
        "DESCRIBE": lambda: registry.jobs.get(ME, f"ft_{size // 2}"),
        "events": lambda: registry.jobs.events(ME, f"ft_{size // 2}"),
        "census": lambda: registry.jobs.census(ME),
        "submit": submit,
        "metering": lambda: registry.usage.sums(ME, ["hour"], Selection(kind=UsageKind.COMPLETION, since=since)),
    }
    found = {name: median(_timed(verb) for _ in range(rounds)) for name, verb in verbs.items()}
    found["ingest"] = median(_timed(lambda batch=batch: ingest(batch)) for batch in batches)
    return found


def _timed(verb: Callable[[], object]) -> float:
    began = time.perf_counter()
    verb()
    return time.perf_counter() - began


def _batches(size: int) -> Iterator[list[UsageRecord]]:
    for number in range(NUM_BATCHES):
        yield [_record(f"req_{size}_{number}_{each}", 0) for each in range(BATCH)]


def _job(job_id: str, number: int, ended: bool) -> dict[str, object]:
    report = {"rows": 1000, "trained_tokens": 60_000, "train_sha256": "a" * 64, "samples": ["a" * 100] * 3}
    job = Job(
        id=job_id,
        account=ME.account,
        owner=ME.user,
        role=ME.role,
        model=f"LUTHIER.PUBLIC.{job_id.upper()}",
        base_model="smollm2-135m",
        training_data="SELECT question AS prompt, answer AS completion FROM faq",
        validation_data="",
        options=FinetuneOptions(),
        report=report,
        status=JobStatus.SUCCESS if ended else JobStatus.PENDING,
        trained_tokens=60_000 if ended else None,
        created_on=number,
        started_on=number if ended else None,
        finished_on=number if ended else None,
    )
    return job.model_dump(mode="json")


def _event(number: int) -> dict[str, object]:
    return {"job_id": f"ft_{number}", "time": number, "type": "COMPLETED", "message": "Model can be used"}


def _record(source_id: str, number: int) -> UsageRecord:
    return UsageRecord(
        kind=UsageKind.COMPLETION,
        source_id=source_id,
        **ME.model_dump(),
        function="CHAT_COMPLETIONS",
        base_model="smollm2-135m",
        model=f"LUTHIER.PUBLIC.M{number % 100}",
        prompt_tokens=100,
        completion_tokens=20,
        price_version="1",
        amount_ucr=3,
        time=number,
    )


def _text(measured: list[Measured], dialect: str, rounds: int) -> str:
    title = heading(f"Registry: its verbs over many rows, {dialect}", ("sqlalchemy",), f"{rounds} rounds a verb")
    first, last = measured[0], measured[-1]
    sizes = " | ".join(f"{each.size} rows" for each in measured)
    lines = [f"| p50, ms | {sizes} | last / first |", "|---|" + "---|" * (len(measured) + 1)]
    for verb in VERBS:
        cells = " | ".join(f"{each.seconds[verb] * 1000:.3f}" for each in measured)
        lines.append(f"| {verb} | {cells} | {last.seconds[verb] / first.seconds[verb]:.2f} |")
    rates = " | ".join(f"{each.records_per_second:.0f}" for each in measured)
    lines.append(
        f"| usage records/s, {BATCH} a batch | {rates} | {last.records_per_second / first.records_per_second:.2f} |"
    )
    goal = f"Goal: at most {GOAL_RATIO} times the p50 of the fewest rows, at least {GOAL_RECORDS} records/s."
    command = f"Command: `python -m benchmarks.registry {' '.join(sys.argv[1:])}`"
    return "\n\n".join([title, command, "\n".join(lines), goal]) + "\n"


if __name__ == "__main__":
    main()
