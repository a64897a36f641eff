"""A name that is free again: who has it next gets nothing of who had it."""

import pytest

from luthier.errors import Conflict, NotAuthenticated
from luthier.platform.access import Caller
from luthier.platform.batches import BatchStatus, Step
from luthier.platform.credits import Budget, BudgetKind
from luthier.platform.names import parse_name
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import HOUR_MS, Selection
from luthier.platform.securables import ACCOUNT, Granted, ObjectKind, Privilege, Securable
from luthier.platform.settings import Settings
from tests.factories import ADMIN, add_admin, ledger_of, make_finished, make_job, make_record
from tests.fakes import Clock, Launcher
from tests.platform.test_batches import make_batch, make_file

pytestmark = pytest.mark.stores

BEGAN = 10 * HOUR_MS
SCHEMA = Securable(ObjectKind.SCHEMA, "LUTHIER", "PUBLIC")
ANALYST = Caller(account="main", user="ann", role="ANALYST")


@pytest.fixture
def time() -> Clock:
    return Clock(BEGAN)


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, time: Clock) -> Registry:
    registry = Registry(settings, launcher, time)
    add_admin(registry)
    registry.roles.create(ADMIN, ANALYST.role)
    return registry


def made_again(registry: Registry, time: Clock) -> None:
    """Within the same hour."""
    time.now += 5
    registry.roles.drop(ADMIN, ANALYST.role)
    registry.roles.create(ADMIN, ANALYST.role)


def open_schema(registry: Registry) -> None:
    """To the role, to make models there."""
    for on in (Securable(ObjectKind.DATABASE, "LUTHIER"), SCHEMA):
        registry.grants.grant(ADMIN, Granted((Privilege.USAGE,), on), ANALYST.role)
    registry.grants.grant(ADMIN, Granted((Privilege.CREATE_MODEL,), SCHEMA), ANALYST.role)


def use(registry: Registry, id: str, at: int) -> None:
    registry.ledger.append([make_record(id, role=ANALYST.role, time=at)])


def test_a_role_sees_what_was_used_since_it_is_there(registry: Registry, time: Clock) -> None:
    def seen() -> list[str]:
        usage = registry.usage
        found = [record.source_id for _, record in usage.page(ANALYST, Selection())]
        for by in (["hour"], ["user"], ["kind"], []):
            assert sum(row["records"] for row in usage.sums(ANALYST, by, Selection())) == len(found), by
        return found

    use(registry, "before", BEGAN)
    assert seen() == ["before"]
    made_again(registry, time)
    assert seen() == []
    use(registry, "after", time.now)
    assert seen() == ["after"]
    assert len(ledger_of(registry)) == 2
    registry.grants.grant(ADMIN, Granted((Privilege.MONITOR_USAGE,), ACCOUNT), ANALYST.role)
    assert len(registry.usage.page(ANALYST, Selection())) == 2, "who may see all sees that too"


def test_a_role_sees_what_was_changed_since_it_is_there(registry: Registry, time: Clock) -> None:
    name = parse_name("luthier.public.m", "", "")
    registry.jobs.submit(make_job("ft_1", name.display))
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished())
    open_schema(registry)
    own = Granted((Privilege.OWNERSHIP,), Securable.named(ObjectKind.MODEL, name))
    registry.grants.grant(ADMIN, own, ANALYST.role)
    registry.versions.set_alias(ANALYST, name, "A", 1)
    registry.models.drop(ADMIN, name)
    assert [change.verb for change in registry.versions.history(ANALYST, name)] == ["SET_ALIAS"]
    made_again(registry, time)
    assert registry.versions.history(ANALYST, name) == []


def test_a_model_has_none_of_the_changes_of_one_that_was_dropped(registry: Registry) -> None:
    name = parse_name("luthier.public.m", "", "")
    open_schema(registry)

    def tune(job: str, by: Caller) -> None:
        registry.jobs.submit(make_job(job, name.display, owner=by.user, role=by.role))
        registry.jobs.tick()
        registry.jobs.finish(job, make_finished())

    tune("ft_1", ADMIN)
    registry.versions.set_alias(ADMIN, name, "SECRET", 1)
    registry.models.drop(ADMIN, name)
    assert registry.versions.history(ANALYST, name) == []
    tune("ft_2", ANALYST)
    registry.versions.set_alias(ADMIN, name, "A", 1)
    assert [change.detail for change in registry.versions.history(ANALYST, name)] == ["", "A"]
    assert [change.detail for change in registry.versions.history(ADMIN, name)] == ["", "SECRET", "", "", "A"]
    registry.models.drop(ANALYST, name)
    assert [change.verb for change in registry.versions.history(ANALYST, name)] == ["CREATE_VERSION", "DROP"]


@pytest.mark.parametrize("kind", [BudgetKind.ROLE, BudgetKind.USER])
def test_a_budget_ends_with_whose_it_is(registry: Registry, kind: BudgetKind) -> None:
    owners = registry.roles if kind is BudgetKind.ROLE else registry.users
    owners.create(ADMIN, "X")
    registry.budgets.set(ADMIN, Budget(kind=kind, name="X", granted_ucr=0))
    registry.budgets.set(ADMIN, Budget(kind=BudgetKind.ROLE, name=ANALYST.role, granted_ucr=0))
    owners.drop(ADMIN, "X")
    owners.create(ADMIN, "X")
    assert [budget.name for budget in registry.budgets.show(ADMIN)] == [ANALYST.role], "and no other's"
    x = ANALYST.model_copy(update={kind.value: "X", "role": "X" if kind is BudgetKind.ROLE else ADMIN.role})
    assert registry.credits.renew("holder", [x, ANALYST], []).limits == [(), ("role:ANALYST",)]


@pytest.mark.parametrize("kind", [BudgetKind.ROLE, BudgetKind.USER])
def test_a_hard_budget_is_not_shed_by_a_new_name(registry: Registry, kind: BudgetKind) -> None:
    owners = registry.roles if kind is BudgetKind.ROLE else registry.users
    on = Granted((Privilege.CREATE_ROLE if kind is BudgetKind.ROLE else Privilege.CREATE_USER,), ACCOUNT)
    registry.grants.grant(ADMIN, on, ANALYST.role)
    owners.create(ANALYST, "X")
    registry.budgets.set(ADMIN, Budget(kind=kind, name="X", granted_ucr=5))
    with pytest.raises(Conflict, match=f"{kind.value.capitalize()} X has a hard budget"):
        owners.drop(ANALYST, "X")
    registry.budgets.set(ADMIN, Budget(kind=kind, name="X", granted_ucr=5, is_hard=False))
    owners.drop(ANALYST, "X")


def test_a_user_who_was_dropped_is_made_by_an_admin_alone(registry: Registry) -> None:
    def by_token(name: str) -> Caller:
        return registry.keys.session_of(ADMIN.account, name, (), issuer="https://provider").caller

    for name in ("X", "Y"):
        by_token(name)
    registry.budgets.set(ADMIN, Budget(kind=BudgetKind.USER, name="X", granted_ucr=0))
    registry.users.drop(ADMIN, "X")
    for _ in range(2):
        with pytest.raises(NotAuthenticated, match="User X was dropped here"):
            by_token("X")
    assert by_token("Y").user == "Y"
    registry.users.create(ADMIN, "X")
    assert by_token("X") == Caller(account=ADMIN.account, user="X", role="PUBLIC")
    registry.users.drop(ADMIN, "X")
    with pytest.raises(NotAuthenticated):
        by_token("X")


def test_public_takes_nothing_over(registry: Registry) -> None:
    public = Caller(account="main", user="bob", role="PUBLIC")
    registry.grants.grant(ADMIN, Granted((Privilege.CREATE_ROLE,), ACCOUNT), "PUBLIC")
    registry.roles.create(public, "TEAM")
    registry.grants.grant(ADMIN, Granted((Privilege.CREATE_ROLE,), ACCOUNT), "TEAM")
    registry.roles.create(public.model_copy(update={"role": "TEAM"}), "PART")
    registry.roles.drop(public, "TEAM")
    assert {role.name: role.owner for role in registry.roles.show(ADMIN)}["PART"] == ADMIN.role


def test_no_role_is_dropped_from_what_runs(registry: Registry) -> None:
    """It would go on by the rights, and be the bill, of who dropped it."""
    open_schema(registry)
    his = {"owner": ANALYST.user, "role": ANALYST.role}
    registry.jobs.submit(make_job("ft_1", **his))
    with pytest.raises(Conflict, match="Role ANALYST has 1 unfinished jobs"):
        registry.roles.drop(ADMIN, ANALYST.role)
    registry.jobs.cancel(ADMIN, "ft_1")
    registry.files.create(make_file(**his))
    registry.batches.submit(make_batch(**his))
    with pytest.raises(Conflict, match="Role ANALYST has 1 unfinished batches"):
        registry.roles.drop(ADMIN, ANALYST.role)
    registry.batches.claim("holder")
    registry.batches.advance("batch_1", "holder", Step(to=BatchStatus.FAILED))
    registry.roles.drop(ADMIN, ANALYST.role)
    assert registry.jobs.get(ADMIN, "ft_1").role == ADMIN.role
