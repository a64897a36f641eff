"""The registry's verbs over few rows and over many: SHOW, DESCRIBE, submit, lists of models, and usage in batches.

python -m benchmarks.registry [--sizes 1000,100000,1000000] [--rounds N] [--url URL] [--out FILE], with nothing else on
the machine. The class behind the actor, in this process, over a fresh SQLite, or over the empty PostgreSQL of --url.
The rows are ended jobs with their events, and as many records of usage, of three accounts with ten roles each; for ten
jobs a model, and a grant on it. Who asks is the administrator of one account, or a user whose role has another one.
A fourth account has a balance and 1,000 budgets of keys (registry_budgets.py): a replica renews its leases of all of
them in one call, and sends batches in which each record is of another key.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import sqlalchemy as sa

from benchmarks.registry_budgets import INGEST, RENEW, Budgeted
from benchmarks.report import OUT, heading, tell
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.jobs import Job, JobStatus
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions
from luthier.platform.queue import Capacity
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import Selection
from luthier.platform.request_ids import new_request_id
from luthier.platform.securables import Granted, ObjectKind, Privilege, Securable
from luthier.platform.settings import Settings
from luthier.platform.store import Store

ME = Caller(account="main", user=ADMIN_USER, role=ADMIN_ROLE)
ACCOUNTS = (ME.account, "second", "third")
ROLES = tuple(f"R{number}" for number in range(10))
ANN = Caller(account=ME.account, user="ann", role=ROLES[0])
"""Her role has another one, owns some rows and was granted others; most are neither's."""
FILL = 10_000
"""Rows of one transaction."""
PER_MODEL = 10
"""Jobs for each model."""
PAGE = 10
"""Rows of a list: as many over few rows as over many."""
BATCH, NUM_BATCHES = 1_000, 20
"""Records as a replica sends them at most, and how many batches a round has."""
HOUR_MS = 3_600_000
VERBS = (
    *("SHOW", "SHOW as a role", "DESCRIBE", "DESCRIBE as a role", "events", "census", "census as a role"),
    *("submit", "submit as a role", "models", "models as a role", "model as a role", "ingest", "metering of an hour"),
    *(RENEW, INGEST, "METERING_HISTORY"),
)
GOAL_RATIO, GOAL_RECORDS = 1.5, 20_000
"""DESIGN.md's: p50 at the most rows against that at the fewest; records a second."""
NO_GOAL = ("METERING_HISTORY",)
"""Adds up every hour of an account: in the cluster the reader does, beside the verbs of others."""


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

    def per_second(self, verb: str) -> float:
        return BATCH / self.seconds[verb]


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
        prepare(registry)
        budgeted = Budgeted(registry, ME)
        measured = []
        filled = 0
        for size in map(int, sizes.split(",")):
            fill(store, filled, size)
            filled = size
            measured.append(Measured(size, measure(registry, budgeted, size, rounds)))
            click.echo(f"{size} rows measured", err=True)
        dialect = store.engine.dialect.name
    tell(_text(measured, dialect, rounds), out)


def prepare(registry: Registry) -> None:
    """Accounts, roles, and what ann may do."""
    for account in ACCOUNTS:
        admin = ME.model_copy(update={"account": account})
        registry.access.add_admin_key(account, f"hash of {account}", "lt_ben")
        for role in ROLES:
            registry.roles.create(admin, role)
    registry.roles.grant(ME, ROLES[1], Securable(ObjectKind.ROLE, name=ANN.role))
    schema = Securable(ObjectKind.SCHEMA, "LUTHIER", "PUBLIC")
    for on, *privileges in (
        (schema.in_database, Privilege.USAGE),
        (schema, Privilege.USAGE, Privilege.CREATE_MODEL),
    ):
        registry.grants.grant(ME, Granted(tuple(privileges), on), ANN.role)


def fill(store: Store, start: int, stop: int) -> None:
    """Rows from a number on; what earlier rounds submitted stays beside them."""
    template = _job(ME, "ft_0", 0, ended=True).model_dump(mode="json")
    usage = _record("a", 0).model_dump(mode="json", exclude={"leases"})
    for first in range(start, stop, FILL):
        numbers = range(first, min(first + FILL, stop))
        models = [number for number in numbers if number % PER_MODEL == 0]
        with store.transaction() as tx:
            tx.execute(sa.insert(store.table("jobs")), [{**template, **_job_row(number)} for number in numbers])
            tx.execute(sa.insert(store.table("events")), [_event(number) for number in numbers])
            tx.execute(sa.insert(store.table("usage")), [{**usage, **_usage_row(number)} for number in numbers])
            tx.execute(sa.insert(store.table("models")), [_model_row(number) for number in models])
            tx.execute(sa.insert(store.table("versions")), [_version_row(number) for number in models])
            tx.execute(sa.insert(store.table("grants")), [_grant_row(number) for number in models])
    if store.engine.dialect.name == "postgresql":  # it does so by itself, some time; SQLite never does
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")


def measure(registry: Registry, budgeted: Budgeted, size: int, rounds: int) -> dict[str, float]:
    """The p50 of each verb in seconds."""
    names = iter(range(sys.maxsize))

    def submit(caller: Caller) -> None:
        name = f"ft_new_{size}_{next(names)}"
        registry.jobs.submit(_job(caller, name, size, ended=False), name)

    def ingest(batch: list[UsageRecord]) -> None:
        assert registry.ledger.append(batch) == BATCH

    hour = Selection(kind=UsageKind.COMPLETION, since=(size - 1) * HOUR_MS // 100)
    middle = size // 2 // 300 * 300  # of the first account and of ann's role, and it made a model that she sees
    model = parse_name(f"LUTHIER.PUBLIC.M{middle}", "", "")
    verbs: dict[str, Callable[[], object]] = {
        "SHOW": lambda: registry.jobs.show(ME, PAGE),
        "SHOW as a role": lambda: registry.jobs.show(ANN, PAGE),
        "DESCRIBE": lambda: registry.jobs.get(ME, f"ft_{middle}"),
        "DESCRIBE as a role": lambda: registry.jobs.get(ANN, f"ft_{middle}"),
        "events": lambda: registry.jobs.news(ME, f"ft_{middle}"),
        "census": lambda: registry.jobs.census(ME),
        "census as a role": lambda: registry.jobs.census(ANN),
        "submit": lambda: submit(ME),
        "submit as a role": lambda: submit(ANN),
        "models": lambda: registry.models.show(ME, PAGE),
        "models as a role": lambda: registry.models.show(ANN, PAGE),
        "model as a role": lambda: registry.models.get(ANN, model),
        "metering of an hour": lambda: registry.usage.sums(ME, ["hour"], hour),
        RENEW: budgeted.renew,
        "METERING_HISTORY": lambda: registry.usage.sums(ME, ["day"], Selection(kind=UsageKind.COMPLETION)),
    }
    found = {
        name: median(_timed(verb) for _ in range(3 if name in NO_GOAL else rounds)) for name, verb in verbs.items()
    }
    batches = {"ingest": list(_batches(size)), INGEST: [budgeted.batch(batch) for batch in _batches(size)]}
    for verb, its in batches.items():
        found[verb] = median(_timed(partial(ingest, batch)) for batch in its)
    return found


def _timed(verb: Callable[[], object]) -> float:
    began = time.perf_counter()
    verb()
    return time.perf_counter() - began


def _batches(size: int) -> Iterator[list[UsageRecord]]:
    """Under names like those of requests."""
    for _ in range(NUM_BATCHES):
        yield [_record(new_request_id(), 0) for _ in range(BATCH)]


def _job(caller: Caller, job_id: str, number: int, ended: bool) -> Job:
    return Job(
        id=job_id,
        account=caller.account,
        owner=caller.user,
        role=caller.role,
        model=f"LUTHIER.PUBLIC.{job_id.upper()}",
        base_model="smollm2-135m",
        training_data="SELECT question AS prompt, answer AS completion FROM faq",
        validation_data="",
        options=FinetuneOptions(),
        report={"rows": 1000, "trained_tokens": 60_000, "train_sha256": "a" * 64, "samples": ["a" * 100] * 3},
        status=JobStatus.SUCCESS if ended else JobStatus.PENDING,
        trained_tokens=60_000 if ended else None,
        created_on=number,
        started_on=number if ended else None,
        finished_on=number if ended else None,
    )


def _whose(number: int) -> dict[str, Any]:
    return {"account": ACCOUNTS[number % len(ACCOUNTS)], "role": ROLES[number % len(ROLES)]}


def _job_row(number: int) -> dict[str, Any]:
    name = f"LUTHIER.PUBLIC.M{number}"
    times = dict.fromkeys(("created_on", "started_on", "finished_on"), number)
    return {**_whose(number), **times, "id": f"ft_{number}", "model": name, "model_name": name}


def _model_row(number: int) -> dict[str, Any]:
    place = {"database": "LUTHIER", "schema": "PUBLIC", "name": f"M{number}", "display": f"LUTHIER.PUBLIC.M{number}"}
    made = {"owner": ADMIN_USER, "created_on": number, "default_version": 1, "last_version": 1}
    return {**_whose(number // PER_MODEL * 3), **place, **made, "id": number + 1, "account": _whose(number)["account"]}


def _version_row(number: int) -> dict[str, Any]:
    made = {"version": 1, "job_id": f"ft_{number}", "base_model": "smollm2-135m", "created_on": number}
    where = {"path": f"/adapters/{number}", "sha256": _hex(f"version {number}"), "rank": 8}
    return {**made, **where, "model_id": number + 1, "method": "lora", "task_type": "CHAT_COMPLETION"}


def _grant_row(number: int) -> dict[str, Any]:
    """To a role that does not own it."""
    on = {"kind": ObjectKind.MODEL.value, "database": "LUTHIER", "schema": "PUBLIC", "name": f"M{number}"}
    given = {"privilege": Privilege.USAGE.value, "granted_by": ADMIN_ROLE, "created_on": number, "is_future": False}
    return {**on, **given, "account": _whose(number)["account"], "grantee": ROLES[number // PER_MODEL // 3 % 10]}


def _event(number: int) -> dict[str, object]:
    return {"job_id": f"ft_{number}", "time": number, "type": "COMPLETED", "message": "Model can be used"}


def _usage_row(number: int) -> dict[str, Any]:
    source_id = f"req_{number:012x}{_hex(f'filled {number}')[:20]}"
    return {**_whose(number), "source_id": source_id, "time": number * HOUR_MS // 100, "model": f"M{number % 100}"}


def _hex(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


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
    for verb in ("ingest", INGEST):
        rates = " | ".join(f"{each.per_second(verb):.0f}" for each in measured)
        ratio = last.per_second(verb) / first.per_second(verb)
        lines.append(f"| {verb}: records/s, {BATCH} a batch | {rates} | {ratio:.2f} |")
    goal = f"Goal: at most {GOAL_RATIO} times the p50 of the fewest rows, at least {GOAL_RECORDS} records/s."
    command = f"Command: `python -m benchmarks.registry {' '.join(sys.argv[1:])}`"
    return "\n\n".join([title, command, "\n".join(lines), goal]) + "\n"


if __name__ == "__main__":
    main()
