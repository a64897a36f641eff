"""Balances: given once, held for jobs, leased to replicas, spent by usage; each sum by its own row."""

from typing import Any

import pytest

from luthier.errors import Conflict, NotAllowed, NotFound, PaymentRequired
from luthier.platform import securables
from luthier.platform.access import Caller
from luthier.platform.credits import GRACE_MS, LEASE_MS, RETURN_MS, Balance, Budget, BudgetKind, Granted, Want
from luthier.platform.jobs import JobError
from luthier.platform.metering import UsageKind
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import ACCOUNT, Privilege
from luthier.platform.settings import Settings
from luthier.platform.webhooks import NoticeType
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_progress, make_record
from tests.fakes import Clock, Launcher

PRICE = 6
"""Micro-credits of make_job's 60 tokens."""
OTHER = Caller(account="other", user="admin", role="ACCOUNTADMIN")


@pytest.fixture
def time() -> Clock:
    return Clock(5_000)


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, time: Clock) -> Registry:
    registry = Registry(settings, launcher, time)
    add_admin(registry)
    registry.access.add_admin_key("other", "hash", "lt_x")
    return registry


def sums(registry: Registry, caller: Caller = ADMIN) -> tuple[int, int, int, int]:
    """Available, spent, held, leased."""
    balance = registry.credits.balance(caller)
    return balance.available_ucr, balance.spent_ucr, balance.held_ucr, balance.leased_ucr


def give(registry: Registry, ucr: int, key: str = "k1") -> None:
    registry.credits.top_up(ADMIN, ADMIN.account, ucr, key)


def lease(registry: Registry, total: int, turn: int = 1, need: int | None = None, **given: Any) -> Granted:
    want = Want(
        id=given.get("id", "l1"),
        account=ADMIN.account,
        turn=turn,
        total_ucr=total,
        need_ucr=total if need is None else need,
    )
    (granted,) = registry.credits.renew(given.get("holder", "r1"), [], [want]).leases
    return granted


def spend(registry: Registry, id: str, ucr: int, *leases: str) -> None:
    registry.ledger.append([make_record(id, amount_ucr=ucr, leases=leases)])


def store(registry: Registry, day: str, ucr: int) -> None:
    registry.ledger.append([make_record(day, kind=UsageKind.STORAGE, amount_ucr=ucr)])


def test_an_account_has_no_limit_until_its_first_top_up(registry: Registry) -> None:
    registry.jobs.submit(make_job())
    spend(registry, "a", 7)
    assert registry.credits.balance(ADMIN) == Balance(account="main")
    give(registry, 10)
    assert sums(registry) == (10, 0, 0, 0)


def test_an_account_can_be_limited_to_nothing(registry: Registry) -> None:
    assert registry.credits.limit(ADMIN, "main").is_limited
    assert sums(registry) == (0, 0, 0, 0)
    give(registry, 3)
    registry.credits.limit(ADMIN, "main")
    assert sums(registry) == (3, 0, 0, 0)


def test_a_top_up_counts_once_for_each_key(registry: Registry, time: Clock) -> None:
    first = registry.credits.top_up(ADMIN, "main", 10, "k1", "hello")
    time.now += 1
    assert registry.credits.top_up(ADMIN, "main", 10, "k1", "hello") == first
    for amount, note in ((11, "hello"), (10, "")):
        with pytest.raises(Conflict, match="another top-up"):
            registry.credits.top_up(ADMIN, "main", amount, "k1", note)
    registry.credits.top_up(ADMIN, "other", 5, "k1")
    second = registry.credits.top_up(ADMIN, "main", 1, "k2")
    assert sums(registry)[0] == 11
    assert registry.credits.topups(ADMIN) == [second, first]


def test_only_the_platform_gives_and_sees_others(registry: Registry) -> None:
    analyst = Caller(account="main", user="bob", role="ANALYST")
    for caller in (OTHER, analyst):
        with pytest.raises(NotAllowed, match="ACCOUNTADMIN of the account that runs the platform"):
            registry.credits.top_up(caller, caller.account, 5, "k1")
        with pytest.raises(NotAllowed):
            registry.credits.limit(caller, caller.account)
    with pytest.raises(NotAllowed):
        registry.credits.balance(OTHER, "main")
    with pytest.raises(NotAllowed):
        registry.credits.topups(OTHER, "main")
    assert not registry.credits.balance(OTHER).is_limited
    assert not registry.credits.balance(ADMIN, "other").is_limited
    with pytest.raises(NotFound, match="no account 'nobody'"):
        registry.credits.top_up(ADMIN, "nobody", 5, "k1")


def test_a_job_is_held_its_price_and_pays_what_it_took(registry: Registry) -> None:
    give(registry, 10)
    registry.jobs.submit(make_job())
    assert sums(registry) == (10 - PRICE, 0, PRICE, 0)
    registry.jobs.submit(make_job())
    assert sums(registry) == (10 - PRICE, 0, PRICE, 0)
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished(trained_tokens=40))
    assert sums(registry) == (6, 4, 0, 0)
    registry.jobs.finish("ft_1", make_finished(trained_tokens=40))
    assert sums(registry) == (6, 4, 0, 0)


def test_a_job_that_the_balance_does_not_cover_is_refused(registry: Registry) -> None:
    give(registry, PRICE - 1)
    with pytest.raises(PaymentRequired, match=r"has 0\.000005 credits available; this may cost 0\.000006\. Top it up"):
        registry.jobs.submit(make_job())
    assert registry.jobs.show(ADMIN) == []
    assert sums(registry) == (5, 0, 0, 0)


def test_no_balance_is_more_than_the_store_counts(registry: Registry) -> None:
    for number in range(2):
        give(registry, 2**60 - 1, f"k{number}")
    give(registry, 2, "k2")
    with pytest.raises(Conflict, match=r"given more than 2305843009213\.693952 credits in all"):
        give(registry, 1, "k3")
    assert registry.credits.balance(ADMIN).granted_ucr == 2**61
    assert len(registry.credits.topups(ADMIN)) == 3


def test_what_there_is_is_told_to_who_may_see_it(registry: Registry) -> None:
    give(registry, PRICE - 1)
    registry.roles.create(ADMIN, "ANALYST")
    schema = securables.Securable(securables.ObjectKind.SCHEMA, "LUTHIER", "PUBLIC")
    for privilege, on in ((Privilege.USAGE, schema.in_database), (Privilege.CREATE_MODEL, schema)):
        registry.grants.grant(ADMIN, securables.Granted((privilege,), on), "ANALYST")

    def told() -> str:
        with pytest.raises(PaymentRequired) as refused:
            registry.jobs.submit(make_job(owner="ann", role="ANALYST"))
        return refused.value.message

    assert "The account's balance has too little; this may cost 0.000006." in told()
    registry.grants.grant(ADMIN, securables.Granted((Privilege.MONITOR_USAGE,), ACCOUNT), "ANALYST")
    assert "The account's balance has 0.000005 credits available; this may cost 0.000006." in told()
    registry.budgets.set(ADMIN, Budget(kind=BudgetKind.ROLE, name="ANALYST", granted_ucr=1))
    give(registry, PRICE, "k2")
    assert "The budget of role ANALYST has too little; this may cost 0.000006." in told()


@pytest.mark.parametrize(("end", "spent"), [("cancel", 1), ("fail", 1), ("lost", 0)])
def test_a_job_that_ends_without_a_model_gives_the_rest_back(registry: Registry, end: str, spent: int) -> None:
    give(registry, 10)
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    registry.jobs.report("ft_1", make_progress(trained_tokens=10))
    if end == "cancel":
        registry.jobs.cancel(ADMIN, "ft_1")
    else:
        registry.jobs.fail("ft_1", JobError(code="X", message="x"), billable=end == "fail")
    assert sums(registry) == (10 - spent, spent, 0, 0)


def test_a_job_of_before_the_limit_is_an_overrun(registry: Registry) -> None:
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    give(registry, 10)
    registry.jobs.finish("ft_1", make_finished())
    balance = registry.credits.balance(ADMIN)
    assert (balance.spent_ucr, balance.overrun_ucr, balance.available_ucr) == (PRICE, PRICE, 4)


def test_a_lease_takes_a_share_of_what_nobody_waits_for(registry: Registry) -> None:
    give(registry, 100)
    assert lease(registry, 80, need=5) == Granted(total_ucr=25, left_ucr=75)
    assert lease(registry, 60, id="l2") == Granted(total_ucr=60, left_ucr=15)
    assert lease(registry, 60, id="l3") == Granted(total_ucr=15, left_ucr=0)
    assert lease(registry, 1, id="l4") == Granted(total_ucr=0, left_ucr=0)
    assert sums(registry) == (0, 0, 0, 100)


def test_usage_is_spent_of_the_lease_that_it_names_and_once(registry: Registry) -> None:
    give(registry, 100)
    lease(registry, 50)
    for _ in range(2):
        spend(registry, "a", 20, "l1")
    assert sums(registry) == (50, 20, 0, 30)
    registry.ledger.append([make_record(id, amount_ucr=5, leases=("l1",)) for id in ("a2", "b", "a2", "b")])
    assert sums(registry) == (50, 30, 0, 20)
    with pytest.raises(Conflict):
        spend(registry, "a", 21, "l1")
    spend(registry, "a", 20)
    assert sums(registry) == (50, 30, 0, 20)


def test_a_lease_shrinks_to_what_was_used_and_no_further(registry: Registry) -> None:
    give(registry, 100)
    lease(registry, 50)
    spend(registry, "a", 20, "l1")
    assert lease(registry, 30, turn=2) == Granted(total_ucr=30, left_ucr=70)
    assert lease(registry, 0, turn=3) == Granted(total_ucr=20, left_ucr=80)
    assert sums(registry) == (80, 20, 0, 0)


def test_an_ask_that_comes_late_or_twice_changes_nothing(registry: Registry) -> None:
    give(registry, 100)
    lease(registry, 50, turn=2 - 1)
    assert lease(registry, 70, turn=3).total_ucr == 70
    assert lease(registry, 10, turn=2) == Granted(total_ucr=70, left_ucr=30)
    assert lease(registry, 90, turn=3) == Granted(total_ucr=70, left_ucr=30)


def test_the_lease_of_a_dead_replica_waits_for_late_usage(registry: Registry, time: Clock) -> None:
    give(registry, 100)
    lease(registry, 50)
    time.now += LEASE_MS + GRACE_MS
    registry.credits.renew("r2", [], [])
    spend(registry, "a", 20, "l1")
    assert sums(registry) == (50, 20, 0, 30)
    time.now += 1
    registry.credits.renew("r2", [], [])
    assert sums(registry) == (80, 20, 0, 0)
    assert lease(registry, 60, turn=7) == Granted(total_ucr=None, left_ucr=0)
    spend(registry, "b", 5, "l1")
    balance = registry.credits.balance(ADMIN)
    assert (balance.spent_ucr, balance.overrun_ucr, balance.available_ucr) == (25, 5, 75)


def test_storage_is_paid_of_what_is_available_and_no_lease(registry: Registry) -> None:
    give(registry, 100)
    lease(registry, 50)
    for _ in range(2):
        store(registry, "a", 40)
    assert sums(registry) == (10, 40, 0, 50)
    store(registry, "b", 25)
    balance = registry.credits.balance(ADMIN)
    assert (balance.spent_ucr, balance.leased_ucr, balance.overrun_ucr) == (65, 50, 15)
    spend(registry, "c", 50, "l1")
    assert registry.credits.balance(ADMIN).overrun_ucr == 15


def test_storage_beside_usage_of_a_lease_in_one_arrival(registry: Registry) -> None:
    give(registry, 100)
    lease(registry, 50)
    usage = make_record("a", amount_ucr=50, leases=("l1",))
    registry.ledger.append([make_record("b", kind=UsageKind.STORAGE, amount_ucr=60), usage])
    balance = registry.credits.balance(ADMIN)
    assert (balance.spent_ucr, balance.leased_ucr, balance.overrun_ucr) == (110, 0, 10)


def test_who_cannot_pay_his_storage_gets_nothing_new(registry: Registry) -> None:
    give(registry, 100)
    store(registry, "a", 120)
    for days in ("b", "c"):
        store(registry, days, 1)
    told = [notice for notice in registry.webhooks.notices(ADMIN) if notice.type is NoticeType.BALANCE_OVERDRAWN]
    assert [notice.data for notice in told] == [{"granted": "0.0001", "spent": "0.00012"}]
    with pytest.raises(PaymentRequired):
        registry.jobs.submit(make_job())
    assert lease(registry, 1).total_ucr == 0
    give(registry, 22, "k2")
    assert sums(registry) == (0, 122, 0, 0)
    give(registry, PRICE, "k3")
    registry.jobs.submit(make_job())


def test_an_heir_gives_the_leases_of_the_dead_back(registry: Registry) -> None:
    give(registry, 100)
    lease(registry, 30)
    lease(registry, 20, id="l2")
    lease(registry, 10, id="l3", holder="r2")
    assert registry.credits.end_holder("r1") == 2
    assert registry.credits.end_holder("r1") == 0
    assert sums(registry) == (90, 0, 0, 10)


def test_a_job_takes_what_dead_replicas_left(registry: Registry, time: Clock) -> None:
    give(registry, 10)
    lease(registry, 10)
    with pytest.raises(PaymentRequired, match=r"beside 0\.00001 reserved by running work"):
        registry.jobs.submit(make_job())
    time.now += LEASE_MS + GRACE_MS + 1
    registry.jobs.submit(make_job())
    assert sums(registry) == (4, 0, 6, 0)


def test_what_limits_a_caller(registry: Registry) -> None:
    assert registry.credits.renew("r1", [ADMIN, OTHER], []).limits == [(), ()]
    give(registry, 1)
    assert registry.credits.renew("r1", [ADMIN, OTHER], []).limits == [("",), ()]
    assert lease(registry, 5, id="l9").total_ucr == 1


def test_usage_that_waited_for_the_registry_is_paid_of_its_lease(
    settings: Settings, registry: Registry, launcher: Launcher, time: Clock
) -> None:
    give(registry, 10)
    lease(registry, 10)
    time.now += LEASE_MS + GRACE_MS + 1
    later = Registry(settings, launcher, time)
    later.credits.keep_leases()
    assert lease(later, 10, id="l2", holder="r2").total_ucr == 0, "nobody else gets it meanwhile"
    spend(later, "late", 10, "l1")
    assert sums(later) == (0, 10, 0, 0)
    assert later.credits.balance(ADMIN).overrun_ucr == 0


def test_a_lease_whose_replica_is_gone_comes_back_after_the_registrys_start(registry: Registry, time: Clock) -> None:
    give(registry, 10)
    lease(registry, 10)
    registry.credits.keep_leases()
    assert lease(registry, 4, id="l2", holder="r2").total_ucr == 0
    time.now += LEASE_MS + GRACE_MS + 1
    registry.credits.keep_leases()
    time.now += RETURN_MS + 1
    assert lease(registry, 4, id="l3", holder="r2").total_ucr == 4
