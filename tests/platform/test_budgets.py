"""Budgets over time: a period ends, and a new one begins with nothing spent."""

import pytest

from luthier.errors import PaymentRequired
from luthier.platform.credits import Budget, BudgetKind, Period
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
