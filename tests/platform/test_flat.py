"""Many rows cost no verb more than few: pages, counts that are kept, and no query that reads a whole table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from luthier.errors import NotFound
from luthier.platform.access import Caller
from luthier.platform.credits import Budget, BudgetKind, Period
from luthier.platform.keys import NewKey
from luthier.platform.models import TableInfo
from luthier.platform.names import QualifiedName, parse_name, quote
from luthier.platform.rates import RateLimit
from luthier.platform.registry.databases import Place
from luthier.platform.registry.models import all_models
from luthier.platform.registry.paging import all_pages
from luthier.platform.registry.rates import place_of
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import Granted, ObjectKind, Privilege, Scope, Securable, parse_securable
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import ADMIN, make_finished, make_job, make_record
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

ANALYST = Caller(account="main", user="ann", role="ANALYST")
LARGE = ("jobs", "events", "models", "versions", "aliases", "grants", "role_grants", "usage", "audit", "storage_spans")
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


def tuned(registry: Registry, *names: str, schema: str = "PUBLIC") -> None:
    for name in names:
        registry.jobs.submit(make_job(f"ft_{name}", f"LUTHIER.{schema}.{quote(name)}"))
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
        monkeypatch.setattr("luthier.platform.registry.objects.MIN_READ", 2)
        for module in ("models", "paging"):  # what is looked through in one query
            monkeypatch.setattr(f"luthier.platform.registry.{module}.MAX_SHOWN", 2)
        assert shown(registry, caller) == sorted(his)[:2]
        assert [model.model for model in all_models(registry.models, caller, 100)] == pages
        assert [model.model for model in all_models(registry.models, caller, 3)] == pages[:3]
        monkeypatch.undo()


def made_of_each(registry: Registry) -> None:
    """Users, roles, keys, tables, top-ups, accounts and places, some of them Ann's role's."""
    registry.users.create(ADMIN, ANALYST.user, ANALYST.role)
    registry.roles.grant(ADMIN, ANALYST.role, Securable(ObjectKind.USER, name=ANALYST.user))
    for name in ("A", "b", "C"):
        registry.users.create(ADMIN, f"USER_{name}")
        registry.roles.create(ADMIN, f"ROLE_{name}")
        registry.keys.create(ADMIN, NewKey(id=f"key_{name}", hash=name, prefix="lt_"))
        registry.credits.top_up(ADMIN, "main", 5, f"topup {name}")
        registry.access.add_admin_key(f"account_{name}", f"hash of {name}", "lt_")
        registry.databases.create(ADMIN, Securable(ObjectKind.DATABASE, name))
        registry.databases.create(ADMIN, Securable(ObjectKind.SCHEMA, "LUTHIER", f"{name}.{name}"))
        table = QualifiedName(*SCHEMA, name, f"LUTHIER.PUBLIC.{quote(name)}")
        info = {"name": table.display, "path": f"{name}.parquet", "num_rows": 1, "columns": ["a"]}
        registry.tables.create(ADMIN, table, TableInfo(**info, owner="admin", created_on=1))
    for on in (Securable(ObjectKind.USER, name="USER_b"), Securable(ObjectKind.ROLE, name="ROLE_C")):
        give(registry, Privilege.OWNERSHIP, on)
    for name in ("A", "b"):
        give(registry, Privilege.SELECT, Securable(ObjectKind.TABLE, *SCHEMA, name))


def test_lists_come_in_pages(registry: Registry, analyst: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of_each(registry)
    give(registry, Privilege.MONITOR_USAGE, Securable(ObjectKind.ACCOUNT))
    give(registry, Privilege.USAGE, Securable(ObjectKind.DATABASE, "b"))

    def places(kind: ObjectKind, caller: Caller, limit: int = 100, after: str | None = None) -> list[Place]:
        behind = parse_securable(kind, after, "", "") if after else None
        return registry.databases.show(caller, kind, None, limit, behind)

    lists: dict[str, tuple[Any, Callable[[Any], str]]] = {
        "accounts": (registry.accounts.show, lambda account: account.name),
        "databases": (partial(places, ObjectKind.DATABASE), lambda place: place.dotted),
        "schemas": (partial(places, ObjectKind.SCHEMA), lambda place: place.dotted),
        "users": (registry.users.show, lambda user: user.name),
        "roles": (registry.roles.show, lambda role: role.name),
        "keys": (registry.keys.show, lambda key: key.id),
        "tables": (registry.tables.show, lambda table: table.name),
        "topups": (lambda caller, *page: registry.credits.topups(caller, None, *page), lambda topup: topup.key),
    }
    num = {}
    for caller in (ADMIN, analyst):
        for kind, (show, key) in lists.items():
            whole = show(caller)
            num[kind, caller.role] = len(whole)
            pages: list[Any] = []
            while page := show(caller, 2, key(pages[-1]) if pages else None):
                assert len(page) <= 2
                pages += page
            assert pages == whole, kind
            with monkeypatch.context() as patched:
                for module in ("paging", "tables", "users", "databases"):
                    patched.setattr(f"luthier.platform.registry.{module}.MAX_SHOWN", 2)
                assert show(caller, 3) == whole[:2], kind
                assert all_pages(partial(show, caller), key, 100) == whole
                assert all_pages(partial(show, caller), key, 3) == whole[:3]
    assert num == {
        **{("users", ADMIN.role): 5, ("roles", ADMIN.role): 6, ("keys", ADMIN.role): 4, ("tables", ADMIN.role): 3},
        **{("users", analyst.role): 2, ("roles", analyst.role): 3, ("keys", analyst.role): 0},
        **{("tables", analyst.role): 2, ("topups", ADMIN.role): 3, ("topups", analyst.role): 3},
        **{("accounts", ADMIN.role): 4, ("databases", ADMIN.role): 4, ("schemas", ADMIN.role): 7},
        **{("accounts", analyst.role): 1, ("databases", analyst.role): 2, ("schemas", analyst.role): 1},
    }
    with pytest.raises(NotFound):
        registry.keys.show(ADMIN, 2, "key_of_nobody")
    assert registry.users.get(analyst, "USER_b").owner == analyst.role
    with pytest.raises(NotFound):
        registry.users.get(analyst, "USER_A")


def shared_lists(registry: Registry) -> list[tuple[Callable[..., Sequence[Any]], int]]:
    """Shares, one of them of another account's, and what they give to whom."""
    shares, other = registry.shares, Caller(account="account_A", user="admin", role=ADMIN.role)
    for caller, names in ((ADMIN, ("S", "T")), (other, ("U",))):
        for name in names:
            shares.create(caller, name)
    schema = Securable(ObjectKind.SCHEMA, *SCHEMA)
    for on in (schema.in_database, schema, Securable(ObjectKind.MODEL, *SCHEMA, "A")):
        shares.grant(ADMIN, Granted((Privilege.USAGE,), on), "S")
    shares.grant(other, Granted((Privilege.USAGE,), schema.in_database), "U")
    shares.set_accounts(ADMIN, "S", ["account_A", "account_b", "account_C"])
    shares.set_accounts(other, "U", [ADMIN.account])
    return [
        (partial(shares.show, ADMIN), 3),
        (partial(shares.describe, ADMIN, "S", None), 3),
        (partial(shares.grants, ADMIN, "S"), 3),
        (partial(shares.accounts, ADMIN, "S"), 3),
    ]


def test_grants_budgets_and_changes_come_in_pages(registry: Registry, analyst: Caller) -> None:
    made_of_each(registry)
    tuned(registry, "A")
    name = parse_name("luthier.public.a", "", "")
    for alias in ("X", "Y", "Z"):
        registry.versions.set_alias(ADMIN, name, alias, 1)
    for role in ("ROLE_A", "ROLE_b"):
        registry.roles.grant(ADMIN, role, Securable(ObjectKind.ROLE, name=analyst.role))
        give(registry, Privilege.SELECT, Securable(ObjectKind.TABLE, *SCHEMA, "A"), role)
    for kind, of in ((BudgetKind.ROLE, "ROLE_A"), (BudgetKind.ROLE, "ROLE_b"), (BudgetKind.USER, "USER_A")):
        registry.budgets.set(ADMIN, Budget(kind=kind, name=of, granted_ucr=5, period=Period.DAY))
    grants, table = registry.grants, Securable(ObjectKind.TABLE, *SCHEMA, "A")
    lists: list[tuple[Callable[..., Sequence[Any]], int]] = [
        (partial(grants.to_role, ADMIN, analyst.role), 8),
        (partial(grants.on, ADMIN, table), 4),
        (partial(grants.of_role, ADMIN, "ROLE_A"), 1),
        (partial(grants.to_user, ADMIN, ANALYST.user), 1),
    ]
    lists += shared_lists(registry)
    for show, num in lists:
        whole = show()
        assert len(whole) == num
        for limit in (1, 2, 3):
            assert [row for skip in range(0, num + 1, limit) for row in show(limit, skip)] == whole
        assert show(5, num) == []
    budgets, changes = registry.budgets.show(ADMIN), registry.versions.history(ADMIN, name)
    for model in ("a", "b", "c"):
        registry.rates.set(ADMIN, RateLimit(model=model, requests=5, tokens=6))
    rates = registry.rates.show(ADMIN)
    assert [limit.model for limit in rates] == ["a", "b", "c"]
    assert registry.rates.show(ADMIN, 2) == rates[:2]
    assert registry.rates.show(ADMIN, 2, place_of(rates[1])) == rates[2:]
    assert [budget.name for budget in budgets] == ["ROLE_A", "ROLE_b", "USER_A"]
    assert registry.budgets.show(ADMIN, 2) == budgets[:2]
    assert registry.budgets.show(ADMIN, 2, "role:ROLE_b") == budgets[2:]
    assert [change.verb for change in changes] == ["CREATE_VERSION", *["SET_ALIAS"] * 3]
    assert registry.versions.history(ADMIN, name, 2, changes[1].id) == changes[2:]


def test_as_many_queries_for_long_lists_as_for_short(registry: Registry, analyst: Caller) -> None:
    shows = (registry.users.show, registry.roles.show, registry.keys.show, registry.tables.show)
    counts = []
    for fill in (lambda: None, lambda: made_of_each(registry)):
        fill()
        for show in shows:
            with statements(registry.models._store) as sent:
                show(ADMIN)
            counts.append(len(sent))
    assert counts[: len(shows)] == counts[len(shows) :]


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


def test_as_many_statements_on_many_objects_as_on_one(registry: Registry, analyst: Caller) -> None:
    """GRANT and REVOKE on all models or tables of a schema, to a role and to a share; and DROP SCHEMA ... CASCADE."""
    registry.shares.create(ADMIN, "S")
    use = (Privilege.USAGE,)
    registry.shares.grant(ADMIN, Granted(use, Securable(ObjectKind.DATABASE, "LUTHIER")), "S")
    counts = []
    for schema, names in (("ONE", ("A",)), ("MANY", ("B", "C", "D", "E"))):
        place = Securable(ObjectKind.SCHEMA, "LUTHIER", schema)
        registry.databases.create(ADMIN, place)
        tuned(registry, *names, schema=schema)
        for name in names:
            table = QualifiedName("LUTHIER", schema, f"T{name}", f"LUTHIER.{schema}.T{name}")
            info = TableInfo(
                name=table.display, owner="admin", path=f"{name}.parquet", num_rows=1, columns=["a"], created_on=1
            )
            registry.tables.create(ADMIN, table, info)
        models = Granted(use, Securable(ObjectKind.MODEL, "LUTHIER", schema), Scope.ALL)
        tables = Granted((Privilege.SELECT,), Securable(ObjectKind.TABLE, "LUTHIER", schema), Scope.ALL)
        with statements(registry.models._store) as sent:
            for granted in (models, tables):
                assert registry.grants.grant(ADMIN, granted, analyst.role) == len(names)
            assert registry.grants.grant(ADMIN, models, analyst.role) == len(names), "again"
            assert registry.shares.grant(ADMIN, models, "S") == len(names)
        held = [each.name for each in registry.grants.to_role(ADMIN, analyst.role) if f".{schema}." in each.name]
        assert len(held) == 2 * len(names)
        with statements(registry.models._store) as more:
            assert registry.grants.revoke(ADMIN, models, analyst.role) == len(names)
            assert registry.shares.revoke(ADMIN, models, "S") == len(names)
            gone = registry.databases.drop(ADMIN, place, cascade=True)
        assert sorted(each.path for each in gone) == [f"{name}.parquet" for name in names]
        counts.append(len(sent) + len(more))
    assert counts[0] == counts[1]
    assert shown(registry, ADMIN) == []
    changes = registry.versions.history(ADMIN, QualifiedName("LUTHIER", "MANY", "C"))
    assert [change.verb for change in changes] == ["CREATE_VERSION", "DROP"]


def test_all_that_one_may_grant_on_is_what_his_roles_own(registry: Registry, analyst: Caller) -> None:
    tuned(registry, "A", "B", "C")
    registry.roles.create(ADMIN, "OTHER")
    give(registry, Privilege.OWNERSHIP, Securable(ObjectKind.MODEL, *SCHEMA, "B"))
    models = Granted((Privilege.READ, Privilege.USAGE), Securable(ObjectKind.MODEL, *SCHEMA), Scope.ALL)
    assert registry.grants.grant(analyst, models, "OTHER") == 1
    assert {each.name for each in registry.grants.to_role(ADMIN, "OTHER")} == {"LUTHIER.PUBLIC.B"}
    assert registry.grants.grant(ADMIN, models, "OTHER") == 3
    assert registry.grants.revoke(analyst, models, "OTHER") == 1
    assert {each.name for each in registry.grants.to_role(ADMIN, "OTHER")} == {"LUTHIER.PUBLIC.A", "LUTHIER.PUBLIC.C"}


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
        registry.storage.due,
    ]
    pages: list[Callable[[], object]] = []
    for caller in (ADMIN, analyst):
        pages += [
            partial(registry.jobs.show, caller),
            partial(registry.models.show, caller),
            partial(registry.models.show, caller, 1, "LUTHIER.PUBLIC.A"),
        ]
        verbs += [
            partial(registry.jobs.census, caller),
            partial(registry.models.get, caller, name),
            partial(registry.versions.serving, caller, name),
        ]
    pages.append(lambda: registry.jobs.show(ADMIN, 10, "ft_A"))
    verbs += [lambda: registry.jobs.get(ADMIN, "ft_A"), lambda: registry.jobs.news(ADMIN, "ft_A").events]
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
