"""Many limits of one account: as many statements as for few, to the same sums; and there is a most of them."""

from collections.abc import Sequence
from unittest import mock

import pytest

from luthier.errors import Conflict
from luthier.platform.access import Caller
from luthier.platform.credits import ACCOUNT, Budget, BudgetKind, Granted, Period, Want, places_of
from luthier.platform.keys import NewKey
from luthier.platform.rates import MINUTE_MS, Asker, Limited, RateLimit, RateName, RateWant, Unit
from luthier.platform.registry import budgets, rates
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, make_record
from tests.platform.test_flat import statements

pytestmark = pytest.mark.stores
MANY = 12
FEW = slice(0, 1)
REST = slice(1, MANY)


@pytest.fixture
def callers(registry: Registry) -> list[Caller]:
    """Each with a key of his own."""
    keys = [f"key_{number:02}" for number in range(MANY)]
    for key in keys:
        registry.keys.create(ADMIN, NewKey(id=key, hash=f"hash of {key}", prefix="lt_x"))
    return [ADMIN.model_copy(update={"key": key}) for key in keys]


def budget_of(caller: Caller) -> Budget:
    return Budget(kind=BudgetKind.KEY, name=str(caller.key), granted_ucr=100, period=Period.DAY)


def lease_of(caller: Caller, scope: str) -> str:
    return f"{caller.key} {scope}"


def lent(registry: Registry, callers: Sequence[Caller], turn: int, ucr: int) -> list[Granted]:
    """To each a lease of the balance, and one of his budget."""
    whose = [(caller, scope) for caller in callers for scope in (ACCOUNT, f"key:{caller.key}")]
    wants = [
        Want(id=lease_of(*each), account="main", scope=each[1], turn=turn, total_ucr=ucr, need_ucr=ucr)
        for each in whose
    ]
    answer = registry.credits.renew("r1", callers, wants)
    assert answer.limits == [(ACCOUNT, f"key:{caller.key}") for caller in callers]
    return answer.leases


def spend(registry: Registry, callers: Sequence[Caller], ucr: int) -> None:
    leases = {caller: tuple(lease_of(caller, scope) for _, scope in places_of(caller)) for caller in callers}
    records = [
        make_record(f"req_{caller.key}", key=caller.key, amount_ucr=ucr, leases=paying)
        for caller, paying in leases.items()
    ]
    assert registry.ledger.append(records) == len(callers)


def test_many_budgets_take_as_many_statements_as_one(registry: Registry, callers: list[Caller]) -> None:
    registry.credits.top_up(ADMIN, "main", 10_000, "k1")
    for caller in callers:
        registry.budgets.set(ADMIN, budget_of(caller))
    counts = []
    for part in (FEW, REST):
        with statements(registry.credits._store) as sent:
            for turn, ucr in ((1, 20), (2, 60), (3, 40)):
                assert {lease.total_ucr for lease in lent(registry, callers[part], turn, ucr)} == {ucr}
            spend(registry, callers[part], 30)
        counts.append(len(sent))
    assert counts[0] == counts[1]
    shown = registry.budgets.show(ADMIN)
    assert [(budget.spent_ucr, budget.reserved_ucr) for budget in shown] == [(30, 10)] * MANY
    balance = registry.credits.balance(ADMIN)
    assert (balance.spent_ucr, balance.leased_ucr, balance.overrun_ucr) == (30 * MANY, 10 * MANY, 0)
    with statements(registry.credits._store) as sent:
        assert registry.credits.end_holder("r1") == 2 * MANY
    assert len(sent) < MANY
    assert {budget.reserved_ucr for budget in registry.budgets.show(ADMIN)} == {0}


def test_leases_of_one_limit_in_one_call_are_of_what_the_others_leave(registry: Registry) -> None:
    registry.credits.top_up(ADMIN, "main", 10, "k1")
    wants = [Want(id=id, account="main", turn=1, total_ucr=7, need_ucr=7) for id in ("l1", "l2")]
    assert [(lease.total_ucr, lease.left_ucr) for lease in registry.credits.renew("r1", [], wants).leases] == [
        (7, 0),
        (3, 0),
    ]


def test_what_another_writer_took_meanwhile_is_not_lent(registry: Registry, callers: list[Caller]) -> None:
    """Where rows cannot be locked, only the statement that takes knows."""
    registry.credits.top_up(ADMIN, "main", 1_000, "k1")
    registry.budgets.set(ADMIN, budget_of(callers[0]))
    limits = registry.credits._limits
    with limits._store.reading() as tx:
        before = limits.find_all(tx, places_of(callers[0]))
    lent(registry, callers[FEW], 1, 80)
    with mock.patch.object(limits, "find_all", return_value=before):
        assert [lease.total_ucr for lease in lent(registry, callers[FEW], 2, 150)] == [150, 80]
    assert registry.credits.balance(ADMIN).leased_ucr == 150
    assert [budget.reserved_ucr for budget in registry.budgets.show(ADMIN)] == [80]


def test_many_rate_limits_take_as_many_statements_as_one(registry: Registry, callers: list[Caller]) -> None:
    for caller in callers:
        registry.rates.set(ADMIN, RateLimit(key=caller.key, requests=9, tokens=9))
    minute, counts = registry.rates._clock() // MINUTE_MS, []
    for part in (FEW, REST):
        names = [RateName("main", str(caller.key), "", unit) for caller in callers[part] for unit in Unit]
        asking = [Asker("main", str(caller.key), "tiny") for caller in callers[part]]
        with statements(registry.rates._store) as sent:
            for turn, total in ((1, 4), (2, 7), (3, 5)):
                wants = [RateWant(name=name, minute=minute, turn=turn, total=total, need=total) for name in names]
                answer = registry.rates.renew("r1", asking, wants)
                assert [(grant.total, grant.left) for grant in answer.grants] == [(total, 9 - total)] * len(names)
                assert [set(limits) for limits in answer.limits] == [
                    {Limited(name, 9) for name in names if name.key == asker.key} for asker in asking
                ]
        counts.append(len(sent))
    assert counts[0] == counts[1]


def test_an_account_has_so_many_limits_and_no_more(
    registry: Registry, callers: list[Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "MAX_BUDGETS", 2)
    monkeypatch.setattr(rates, "MAX_LIMITS", 2)
    registry.credits.top_up(ADMIN, "main", 100, "k1")
    for _ in range(2):  # the same again is no other
        for caller in callers[:2]:
            registry.budgets.set(ADMIN, budget_of(caller))
            registry.rates.set(ADMIN, RateLimit(key=caller.key, requests=9, tokens=9))
    with pytest.raises(Conflict, match="at most 2 budgets"):
        registry.budgets.set(ADMIN, budget_of(callers[2]))
    with pytest.raises(Conflict, match="at most 2 rate limits"):
        registry.rates.set(ADMIN, RateLimit(key=callers[2].key, requests=9))
    registry.budgets.drop(ADMIN, BudgetKind.KEY, str(callers[0].key))
    registry.rates.unset(ADMIN, callers[0].key, None)
    registry.budgets.set(ADMIN, budget_of(callers[2]))
    registry.rates.set(ADMIN, RateLimit(key=callers[2].key, requests=9))
