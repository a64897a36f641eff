"""What the store counts by itself, so that nobody adds up rows, is what the rows add up to."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.jobs import JobStatus
from luthier.platform.metering import UsageKind
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import HOUR_MS, SUMS, Selection
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_record
from tests.fakes import Clock, Launcher

pytestmark = pytest.mark.stores


@pytest.fixture
def launcher() -> Launcher:
    return Launcher(num_jobs=100, num_workers=100)


def test_the_counts_of_jobs_are_those_of_the_rows(registry: Registry, settings: Settings) -> None:
    def counted() -> dict[tuple[str, ...], int]:
        counts = store.table("job_counts")
        rows = store.rows(sa.select(counts).where(counts.c.count != 0))
        return {(row["role"], row["owner"], row["status"]): row["count"] for row in rows}

    def there() -> dict[tuple[str, ...], int]:
        jobs = store.table("jobs").c
        key = (jobs.role, jobs.owner, jobs.status)
        rows = store.rows(sa.select(*key, sa.func.count().label("num")).group_by(*key))
        return {(row["role"], row["owner"], row["status"]): row["num"] for row in rows}

    store = Store(settings.store_url)
    for name in ("A", "B"):
        registry.jobs.submit(make_job(f"ft_{name}", f"LUTHIER.PUBLIC.{name}"))
    registry.jobs.tick()
    for name in ("A", "B"):
        registry.jobs.finish(f"ft_{name}", make_finished(name, sha256=name))
    for number in range(3):
        registry.jobs.submit(make_job(f"ft_{number}", f"LUTHIER.PUBLIC.M{number}"))
        assert counted() == there()
    registry.jobs.cancel(ADMIN, "ft_1")
    ended = {"SUCCESS": 2, "PENDING": 2, "CANCELLED": 1}
    assert counted() == there() == {(ADMIN.role, ADMIN.user, status): num for status, num in ended.items()}
    jobs = store.table("jobs")
    with store.transaction() as tx:
        tx.execute(sa.update(jobs).where(jobs.c.id == "ft_2").values(role="OTHER"))
        tx.execute(sa.update(jobs).where(jobs.c.id == "ft_1").values(owner="ann"))
        tx.execute(sa.delete(jobs).where(jobs.c.id == "ft_A"))
        tx.execute(sa.update(jobs).values(attempt=7))
    assert counted() == there()
    assert registry.jobs.census(ADMIN).counts[JobStatus.PENDING] == 2
    store.engine.dispose()


def test_the_hours_of_usage_are_those_of_the_records(registry: Registry) -> None:
    """However they come: many at once, again, of several accounts, kinds and roles."""
    spent = [
        make_record(
            f"{kind}_{number}", kind=kind, time=number * 1_700_000, role=("A", "PUBLIC")[number % 2], stored_bytes=3
        )
        for kind in UsageKind
        for number in range(5)
    ]
    registry.ledger.append(spent[:9])
    registry.ledger.append(spent)
    registry.access.add_admin_key("other", "hash", "lt_oth")
    registry.ledger.append([make_record("other", account="other", time=5)])
    store, names = registry.usage._store, (*SUMS, "time", "user", "role", "kind", "account")
    hours, usage = store.table("usage_hours"), store.table("usage")
    kept = {tuple(row[name] for name in ("records", *names)) for row in store.rows(sa.select(hours))}
    found: dict[tuple[Any, ...], list[int]] = {}
    for row in store.rows(sa.select(usage)):
        user = row["user"] if row["role"] == "PUBLIC" else ""
        key = (row["time"] // HOUR_MS * HOUR_MS, user, row["role"], row["kind"], row["account"])
        sums = found.setdefault(key, [0] * (len(SUMS) + 1))
        sums[:] = [each + more for each, more in zip(sums, [1, *(row[name] for name in SUMS)], strict=True)]
    assert kept == {(*sums, *key) for key, sums in found.items()}
    for of in (Selection(), Selection(kind=UsageKind.STORAGE), Selection(since=HOUR_MS, until=2 * HOUR_MS)):
        for by in (["hour"], ["kind", "day"], []):
            slow = registry.usage._sums(usage, registry.usage._chosen(ADMIN, of), by)
            assert registry.usage.sums(ADMIN, by, of) == slow, "both ways are the same"
    assert len(registry.usage.sums(ADMIN, ["hour"], Selection(since=1_700_000))) == 2, "half an hour is of records"


def test_the_hours_of_roles_and_users_are_those_of_their_records(settings: Settings, launcher: Launcher) -> None:
    """Each began within an hour that has records of others of its name."""
    clock = Clock(0)
    registry = Registry(settings, launcher, clock)
    add_admin(registry)
    roles, users = registry.roles.create, registry.users.create
    creations: list[tuple[Callable[..., object], str]] = [(roles, "A"), (roles, "B"), (users, "ann")]
    for number, (create, name) in enumerate(creations):
        clock.now = number * HOUR_MS + 1_000_000
        create(ADMIN, name)
    clock.now = 3 * HOUR_MS
    registry.roles.create(ADMIN, "C")
    registry.roles.grant(ADMIN, "B", Securable(ObjectKind.ROLE, name="A"))
    whose = ("A", "ann"), ("A", "bob"), ("B", "bob"), ("C", "ann"), ("PUBLIC", "ann"), ("PUBLIC", "bob")
    registry.ledger.append(
        [
            make_record(f"{role}_{user}_{kind}_{number}", kind=kind, time=number * 400_000, role=role, user=user)
            for role, user in whose
            for kind in UsageKind
            for number in range(48)
        ]
    )
    usage = registry.usage
    for role, user in (("A", "ann"), ("C", "ann"), ("PUBLIC", "ann"), ("PUBLIC", "bob")):
        caller = Caller(account=ADMIN.account, user=user, role=role)
        for of in (Selection(), Selection(kind=UsageKind.TRAINING), Selection(since=2 * HOUR_MS, until=4 * HOUR_MS)):
            for by in (["hour"], ["day"], ["kind", "hour"], []):
                slow = usage._sums(usage._usage, usage._chosen(caller, of), by)
                assert usage.sums(caller, by, of) == slow, (caller, of, by)
                assert bool(slow) == (user == "ann"), "bob is no user"
