"""Budgets over time: a period ends, and a new one begins with nothing spent. What is in none."""

import pytest

from luthier.errors import InvalidInput, NotAuthenticated, PaymentRequired
from luthier.platform.credits import Budget, BudgetKind, Period
from luthier.platform.metering import SYSTEM, UsageKind
from luthier.platform.registry.balances import Balances
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, make_job, make_record
from tests.fakes import Clock
from tests.platform.test_credits import PRICE, registry, time  # noqa: F401 - fixtures

DAY_MS = 24 * 3600 * 1000


def budget_of(ucr: int, period: Period = Period.DAY) -> Budget:
    return Budget(kind=BudgetKind.ROLE, name=ADMIN.role, granted_ucr=ucr, period=period)


def test_a_new_day_begins_with_nothing_spent(registry: Registry, time: Clock) -> None:  # noqa: F811
    registry.budgets.set(ADMIN, budget_of(100))
    record = make_record()
    registry.ledger.append([record])
    assert [each.spent_ucr for each in registry.budgets.show(ADMIN)] == [record.amount_ucr]
    time.now += DAY_MS
    assert [each.spent_ucr for each in registry.budgets.show(ADMIN)] == [0]


def test_what_is_held_for_a_job_goes_with_it_into_the_new_day(registry: Registry, time: Clock) -> None:  # noqa: F811
    registry.budgets.set(ADMIN, budget_of(PRICE))
    registry.jobs.submit(make_job())
    time.now += DAY_MS
    with pytest.raises(PaymentRequired, match="budget of role ACCOUNTADMIN"):
        registry.jobs.submit(make_job("ft_2", "LUTHIER.PUBLIC.ANOTHER"))


def test_set_again_it_keeps_what_was_spent(registry: Registry) -> None:  # noqa: F811
    registry.budgets.set(ADMIN, budget_of(100))
    record = make_record()
    registry.ledger.append([record])
    assert registry.budgets.set(ADMIN, budget_of(200)).spent_ucr == record.amount_ucr
    assert registry.budgets.drop(ADMIN, BudgetKind.ROLE, ADMIN.role).granted_ucr == 200
    assert registry.budgets.show(ADMIN) == []


def test_storage_is_in_no_budget(registry: Registry) -> None:  # noqa: F811
    """Nobody asked for it: it is the account's, whatever roles and users are called."""
    registry.credits.top_up(ADMIN, ADMIN.account, 100, "k1")
    for kind, name in ((BudgetKind.ROLE, ADMIN.role), (BudgetKind.USER, ADMIN.user)):
        registry.budgets.set(ADMIN, Budget(kind=kind, name=name, granted_ucr=100))
    registry.ledger.append([make_record(kind=UsageKind.STORAGE, amount_ucr=7)])
    assert [each.spent_ucr for each in registry.budgets.show(ADMIN)] == [0, 0]
    assert registry.credits.balance(ADMIN).spent_ucr == 7
    with registry.roles._store.reading() as tx:
        shown = list(Balances(registry.roles._store).differences(tx))
    assert [what for what in shown if what[2] != what[3]] == []


def test_nobody_is_called_as_storages_asker_is(registry: Registry) -> None:  # noqa: F811
    """He would be shown the account's storage."""
    with pytest.raises(InvalidInput, match="SYSTEM stands for the platform itself"):
        registry.roles.create(ADMIN, SYSTEM)
    with pytest.raises(InvalidInput, match="SYSTEM stands for the platform itself"):
        registry.users.create(ADMIN, SYSTEM)
    with pytest.raises(NotAuthenticated, match="SYSTEM stands for the platform itself"):
        registry.keys.session_of(ADMIN.account, SYSTEM, (), issuer="https://provider")
    registry.roles.create(ADMIN, SYSTEM.lower())
