"""Many rows cost no verb more than few: pages, counts that are kept, and no query that reads a whole table."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.jobs import JobStatus
from luthier.platform.names import parse_name, quote
from luthier.platform.registry.models import all_models
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import Granted, ObjectKind, Privilege, Scope, Securable
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import ADMIN, make_finished, make_job, make_record
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

ANALYST = Caller(account="main", user="ann", role="ANALYST")
LARGE = ("jobs", "events", "models", "versions", "aliases", "grants", "role_grants", "usage", "audit")
SCHEMA = ("LUTHIER", "PUBLIC")


@pytest.fixture
def launcher() -> Launcher:
    return Launcher(num_jobs=100, num_workers=100)


def give(registry: Registry, privilege: Privilege, on: Securable, role: str = ANALYST.role) -> None:
    registry.grants.grant(ADMIN, Granted(scope=Scope.ONE, on=on, privileges=(privilege,)), role)


@pytest.fixture
def analyst(registry: Registry) -> Caller:
    """May use what is in the schema, once he is granted something there."""
    registry.roles.create(ADMIN, ANALYST.role)
    give(registry, Privilege.USAGE, Securable(ObjectKind.DATABASE, "LUTHIER"))
    give(registry, Privilege.USAGE, Securable(ObjectKind.SCHEMA, *SCHEMA))
    return ANALYST


def tuned(registry: Registry, *names: str) -> None:
    for name in names:
        registry.jobs.submit(make_job(f"ft_{name}", f"LUTHIER.PUBLIC.{quote(name)}"))
    registry.jobs.tick()
    for name in names:
        registry.jobs.finish(f"ft_{name}", make_finished(name, sha256=name))


def shown(registry: Registry, caller: Caller, **page: Any) -> list[str]:
    return [parse_name(model.model, "", "").name for model in registry.models.show(caller, **page)]


def test_pages_of_models_are_all_of_them_once(registry: Registry, analyst: Caller, monkeypatch: Any) -> None:
    names = ["A", "b", "C", "d.e", 'f"g', "H"]
    tuned(registry, *names)
    registry.roles.create(ADMIN, "OTHER")
    for name in ("A", "d.e", "H"):
        give(registry, Privilege.USAGE, Securable(ObjectKind.MODEL, *SCHEMA, name))
    for name in ("b", "C"):
        give(registry, Privilege.READ, Securable(ObjectKind.MODEL, *SCHEMA, name), "OTHER")
    for caller, his in ((ADMIN, names), (analyst, ["A", "H", "d.e"])):
        pages: list[str] = []
        while page := registry.models.show(caller, 2, pages[-1] if pages else None):
            assert len(page) <= 2
            pages += [model.model for model in page]
        assert [parse_name(name, "", "").name for name in pages] == sorted(his)
        monkeypatch.setattr("luthier.platform.registry.models.MIN_READ", 2)
        monkeypatch.setattr("luthier.platform.registry.models.MAX_SHOWN", 2)  # what is looked through in one query
        assert shown(registry, caller) == sorted(his)[:2]
        assert [model.model for model in all_models(registry.models, caller, 100)] == pages
        assert [model.model for model in all_models(registry.models, caller, 3)] == pages[:3]
        monkeypatch.undo()


def test_what_a_role_owns_is_between_what_it_was_granted(registry: Registry, analyst: Caller) -> None:
    tuned(registry, "A", "B", "C", "D")
    give(registry, Privilege.USAGE, Securable(ObjectKind.MODEL, *SCHEMA, "A"))
    give(registry, Privilege.USAGE, Securable(ObjectKind.MODEL, *SCHEMA, "C"))
    registry.grants.grant(
        ADMIN,
        Granted(scope=Scope.ONE, on=Securable(ObjectKind.MODEL, *SCHEMA, "B"), privileges=(Privilege.OWNERSHIP,)),
        analyst.role,
    )
    assert shown(registry, analyst) == ["A", "B", "C"]
    registry.models.drop(ADMIN, parse_name("luthier.public.a", "", ""))
    assert shown(registry, analyst) == ["B", "C"]


def test_models_are_shown_as_each_is_told_alone(registry: Registry) -> None:
    tuned(registry, "A", "B")
    name = parse_name("luthier.public.b", "", "")
    registry.jobs.submit(make_job("ft_again", "luthier.public.b", options={"new_version": True, "promote": False}))
    registry.jobs.tick()
    registry.jobs.finish("ft_again", make_finished("again", sha256="again"))
    registry.versions.set_alias(ADMIN, name, "NEW", 2)
    told = registry.models.show(ADMIN)
    assert told == [registry.models.get(ADMIN, parse_name(each.model, "", "")) for each in told]
    assert registry.versions.numbers(told) == {told[0].number: [1], told[1].number: [1, 2]}


def test_jobs_are_shown_by_pages_newest_first(registry: Registry, analyst: Caller) -> None:
    registry.roles.create(ADMIN, "OTHER")
    registry.roles.grant(ADMIN, "OTHER", Securable(ObjectKind.ROLE, name=analyst.role))
    for number in range(12):
        role = (analyst.role, "OTHER", ADMIN.role)[number % 3]
        job = make_job(f"ft_{number:02}", f"LUTHIER.PUBLIC.M{number}", created_on=number // 4, owner="ann", role=role)
        store_job(registry, job)
    for caller, his in ((ADMIN, range(12)), (analyst, [number for number in range(12) if number % 3 < 2])):
        wanted = [f"ft_{number:02}" for number in reversed(his)]
        assert [job.id for job in registry.jobs.show(caller)] == wanted
        pages: list[str] = []
        while page := registry.jobs.show(caller, 3, pages[-1] if pages else None):
            pages += [job.id for job in page]
        assert pages == wanted


def store_job(registry: Registry, job: Any) -> None:
    """Whatever its role may."""
    store = registry.jobs._store
    with store.transaction() as tx:
        tx.execute(sa.insert(store.table("jobs")).values(**job.model_dump(mode="json")))


def test_the_counts_of_jobs_are_those_of_the_rows(registry: Registry, settings: Settings) -> None:
    def counted() -> dict[tuple[str, str], int]:
        counts = store.table("job_counts")
        rows = store.rows(sa.select(counts).where(counts.c.count != 0))
        return {(row["role"], row["status"]): row["count"] for row in rows}

    def there() -> dict[tuple[str, str], int]:
        jobs = store.table("jobs").c
        query = sa.select(jobs.role, jobs.status, sa.func.count().label("num")).group_by(jobs.role, jobs.status)
        return {(row["role"], row["status"]): row["num"] for row in store.rows(query)}

    store = Store(settings.store_url)
    tuned(registry, "A", "B")
    for number in range(3):
        registry.jobs.submit(make_job(f"ft_{number}", f"LUTHIER.PUBLIC.M{number}"))
        assert counted() == there()
    registry.jobs.cancel(ADMIN, "ft_1")
    assert (
        counted() == there() == {(ADMIN.role, "SUCCESS"): 2, (ADMIN.role, "PENDING"): 2, (ADMIN.role, "CANCELLED"): 1}
    )
    jobs = store.table("jobs")
    with store.transaction() as tx:
        tx.execute(sa.update(jobs).where(jobs.c.id == "ft_2").values(role="OTHER"))
        tx.execute(sa.delete(jobs).where(jobs.c.id == "ft_A"))
        tx.execute(sa.update(jobs).values(attempt=7))
    assert counted() == there()
    assert registry.jobs.census(ADMIN).counts[JobStatus.PENDING] == 2
    store.engine.dispose()


@contextmanager
def statements(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the store meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        sent.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(store.engine, "before_cursor_execute", note)


def test_as_many_queries_for_many_models_as_for_one(registry: Registry, analyst: Caller) -> None:
    counts = []
    for names in (("A",), ("B", "C", "D", "E")):
        tuned(registry, *names)
        for name in names:
            give(registry, Privilege.USAGE, Securable(ObjectKind.MODEL, *SCHEMA, name))
        for caller in (ADMIN, analyst):
            with statements(registry.models._store) as sent:
                registry.models.show(caller)
            counts.append(len(sent))
    assert counts[:2] == counts[2:]


def test_no_verb_reads_a_whole_table(registry: Registry, analyst: Caller, settings: Settings) -> None:
    """As SQLite plans it without statistics, which it never makes by itself."""
    store = registry.jobs._store
    if store.engine.dialect.name != "sqlite":
        pytest.skip("a small table of PostgreSQL is read whole whatever its indexes are")
    tuned(registry, "A", "B")
    give(registry, Privilege.USAGE, Securable(ObjectKind.MODEL, *SCHEMA, "A"))
    name = parse_name("luthier.public.a", "", "")
    records = [make_record("a"), make_record("b")]
    verbs: list[Callable[[], object]] = [
        lambda: registry.jobs.submit(make_job("ft_1", "LUTHIER.PUBLIC.NEW"), "key"),
        lambda: registry.ledger.append(records),
    ]
    pages: list[Callable[[], object]] = []
    for caller in (ADMIN, analyst):
        pages += [
            lambda caller=caller: registry.jobs.show(caller),
            lambda caller=caller: registry.models.show(caller),
            lambda caller=caller: registry.models.show(caller, 1, "LUTHIER.PUBLIC.A"),
        ]
        verbs += [
            lambda caller=caller: registry.jobs.census(caller),
            lambda caller=caller: registry.models.get(caller, name),
            lambda caller=caller: registry.versions.serving(caller, name),
        ]
    pages.append(lambda: registry.jobs.show(ADMIN, 10, "ft_A"))
    verbs += [lambda: registry.jobs.get(ADMIN, "ft_A"), lambda: registry.jobs.events(ADMIN, "ft_A")]
    with statements(store) as of_pages:
        for verb in pages:
            verb()
    with statements(store) as sent:
        for verb in verbs:
            verb()
    with store.engine.connect() as connection:
        for statement, parameters in [*of_pages, *sent]:
            some = parameters[0] if isinstance(parameters, list) else parameters
            steps = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", some)]
            large = [step for step in steps if step.split()[0] in ("SCAN", "SEARCH") and step.split()[1] in LARGE]
            whole = [step for step in large if step.startswith("SCAN") or step.endswith("(account=?)")]
            is_page = (statement, parameters) in of_pages  # which ends at its LIMIT
            assert not whole or (is_page and "LIMIT" in statement and not whole[0].startswith("SCAN")), statement
