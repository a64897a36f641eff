"""What takes long is read beside the registry: its reader writes nothing, and nobody waits for it."""

import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from luthier.errors import ClusterError, Unavailable
from luthier.platform.access import hash_key
from luthier.platform.credits import Budget, BudgetKind, Period
from luthier.platform.rates import RateLimit
from luthier.platform.registry.actor import LONG_READS, LongReader, registry_client, start_registry, stop_registry
from luthier.platform.registry.audit import Search
from luthier.platform.registry.paging import Page
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import Selection
from luthier.platform.securables import ObjectKind
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import ADMIN, KEY, make_job, make_record
from tests.fakes import Launcher
from tests.forging import set_revision
from tests.local_ray import local_ray

RECORDS = 150_000


@pytest.mark.stores
def test_the_reader_finds_what_was_written_and_writes_nothing(registry: Registry, settings: Settings) -> None:
    reader = LongReader(settings, Launcher())
    assert reader.call("jobs", "show", (ADMIN,), {}) == []
    registry.jobs.submit(make_job())
    assert reader.call("jobs", "show", (ADMIN,), {}) == registry.jobs.show(ADMIN)
    with pytest.raises((Unavailable, sa.exc.DBAPIError), match=r"readonly|read-only"):
        reader.call("jobs", "cancel", (ADMIN, "ft_1"), {})
    for part, verbs in LONG_READS.items():
        assert all(hasattr(getattr(registry, part), verb) for verb in verbs), part


@pytest.mark.stores
def test_every_list_can_be_read_there(registry: Registry, settings: Settings) -> None:
    """Nothing in them writes or locks."""
    registry.credits.limit(ADMIN, "main")
    registry.rates.set(ADMIN, RateLimit(model="tiny", requests=5))
    registry.budgets.set(ADMIN, Budget(kind=BudgetKind.USER, name="admin", granted_ucr=5, period=Period.DAY))
    reader, of = LongReader(settings, Launcher()), {"databases": (ObjectKind.DATABASE,), "files": (Page(limit=5),)}
    of |= {"batches": (Page(limit=5),), "audit": (Search(),)}
    for part, verbs in LONG_READS.items():
        if "show" in verbs and part != "versions":
            args = (ADMIN, *of.get(part, ()))
            assert reader.call(part, "show", args, {}) == getattr(registry, part).show(*args), part
    assert reader.call("credits", "topups", (ADMIN,), {}) == []
    assert reader.call("webhooks", "notices", (ADMIN,), {}) == []
    assert reader.call("usage", "part", (ADMIN, ["query"], Selection()), {}) == ([], None)


@pytest.mark.stores
def test_a_snapshot_is_of_one_moment(registry: Registry, settings: Settings) -> None:
    store = Store(settings.store_url)
    count = sa.select(sa.func.count()).select_from(store.table("usage"))
    with store.snapshot() as tx:
        assert tx.execute(count).scalar_one() == 0
        registry.ledger.append([make_record("a")])
        assert tx.execute(count).scalar_one() == 0
    with store.snapshot() as tx:
        assert tx.execute(count).scalar_one() == 1
    store.engine.dispose()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_registry_that_cannot_start_says_why(settings: Settings) -> None:
    store = Store(settings.store_url)
    set_revision(store, "9999")
    store.engine.dispose()
    with local_ray(num_cpus=1):
        with pytest.raises(ClusterError, match=r"^The registry did not start: .*The store is at revision 9999.*one\.$"):
            start_registry(settings, Launcher())
        stop_registry()


@pytest.fixture
def client(settings: Settings) -> Iterator[Registry]:
    with local_ray(num_cpus=2):
        start_registry(settings, Launcher())
        yield registry_client()
        stop_registry()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_long_sum_delays_nobody(client: Registry, settings: Settings) -> None:
    client.access.add_admin_key(ADMIN.account, hash_key(KEY), KEY[:6])
    store = Store(settings.store_url)
    columns = ", ".join(f'"{name}"' for name in make_record().model_dump(mode="json", exclude={"leases"}))
    client.ledger.append([make_record("req_0")])
    with store.transaction() as tx:
        copied = columns.replace('"source_id"', "'req_' || n || '-1'")
        tx.exec_driver_sql(
            f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {RECORDS}) "
            f"INSERT INTO usage ({columns}) SELECT {copied} FROM usage, numbers"
        )
    store.engine.dispose()
    seconds: list[float] = []
    sums = [threading.Thread(target=_sum, args=(client, seconds)) for _ in range(2)]
    for each in sums:
        each.start()
    waits: list[float] = []
    while any(each.is_alive() for each in sums):
        began = time.perf_counter()
        client.ledger.append([make_record(f"new_{len(waits)}")])
        assert client.jobs.census(ADMIN).running == []
        waits.append(time.perf_counter() - began)
    assert len(seconds) == 2
    assert len(waits) > 5
    assert max(waits) < min(seconds) / 2, (waits, seconds)
    assert client.usage.page(ADMIN, Selection(), RECORDS + 1)[-1][1].source_id == f"new_{len(waits) - 1}"


def _sum(client: Registry, seconds: list[float]) -> None:
    began = time.perf_counter()
    assert sum(row["records"] for row in client.usage.sums(ADMIN, ["hour", "query", "model"], Selection())) > RECORDS
    seconds.append(time.perf_counter() - began)
