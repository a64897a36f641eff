"""Leases: reserved and settled in memory, never more than the registry gave, and nobody waits but at the end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from luthier.errors import AnsweredTwice, PaymentRequired, Unavailable
from luthier.platform.access import Caller
from luthier.platform.credits import ALONE_SECONDS, Budget, BudgetKind, Renewal, Want
from luthier.platform.registry.registry import Registry
from luthier.serve.metering.leases import Leases, Reservation
from luthier.serve.metering.leasing import KNOWN_SECONDS, QUIET_SECONDS, SURE_SECONDS
from tests.factories import ADMIN, make_record
from tests.fakes import Clock


class Line:
    """The way to the registry; each call is kept, and a test cuts it."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.calls: list[tuple[int, int]] = []
        """Callers and leases asked for."""
        self.is_cut = self.loses_answers = False

    def renew(self, holder: str, callers: Sequence[Caller], wants: Sequence[Want], grace_ms: int) -> Renewal:
        self.calls.append((len(callers), len(wants)))
        if self.is_cut:
            raise Unavailable("away")
        answer = self.registry.credits.renew(holder, callers, wants, grace_ms)
        if self.loses_answers:
            raise Unavailable("lost")
        return answer


class Replica:
    """Its leases, and what the registry knows of them."""

    def __init__(self, registry: Registry, name: str = "r1") -> None:
        self.registry, self.name = registry, name
        self.line, self.clock = Line(registry), Clock()
        self.leases = Leases(self.line, name, self.clock)
        self.num = 0

    async def reserve(self, ucr: int) -> Reservation:
        reservation = self.leases.open(ADMIN)
        await reservation.take(ucr)
        return reservation

    async def settle(self, reservation: Reservation, ucr: int) -> None:
        """Its record reaches the ledger at once."""
        self.num += 1
        paying = reservation.settle(ucr)
        self.registry.ledger.append([make_record(f"{self.name}_{self.num}", amount_ucr=ucr, leases=paying)])

    async def spend(self, ucr: int, reserved: int | None = None) -> None:
        await self.settle(await self.reserve(reserved or ucr), ucr)

    def forget_calls(self) -> None:
        self.line.calls.clear()


async def landed(replica: Replica) -> None:
    """All that is asked beside the requests is answered."""
    while any(purse.flight for purse in replica.leases._purses.values()):
        await asyncio.sleep(0)


def balance(registry: Registry) -> dict[str, int]:
    found = registry.credits.balance(ADMIN)
    return {name: getattr(found, f"{name}_ucr") for name in ("available", "spent", "leased", "overrun")}


def give(registry: Registry, ucr: int, key: str = "k1") -> None:
    registry.credits.top_up(ADMIN, ADMIN.account, ucr, key)


@pytest.fixture
def replica(registry: Registry) -> Replica:
    return Replica(registry)


def run(work: Awaitable[Any]) -> None:
    async def settled() -> None:
        await work
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(settled())


def test_an_account_without_limits_asks_once_and_then_never_waits(replica: Replica) -> None:
    async def ask() -> None:
        await replica.spend(10**9)
        assert replica.line.calls == [(1, 0)]
        for _ in range(1000):
            await replica.spend(10**9)
        assert replica.line.calls == [(1, 0)]
        for _ in range(20):
            replica.clock.now += KNOWN_SECONDS - 1
            await replica.leases.renew_all()
            replica.forget_calls()
            await replica.spend(1)
            assert replica.line.calls == []

    run(ask())


def test_a_lease_with_room_asks_nobody(registry: Registry, replica: Replica) -> None:
    give(registry, 10**9)

    async def ask() -> None:
        await replica.spend(10, reserved=100)
        for _ in range(5):
            replica.clock.now += 2
            await replica.leases.renew_all()
        replica.forget_calls()
        for _ in range(3):
            await replica.spend(10, reserved=100)
        assert replica.line.calls == []

    run(ask())


def test_a_lease_that_runs_low_is_filled_beside_the_requests(registry: Registry, replica: Replica) -> None:
    give(registry, 10**9)

    async def ask() -> None:
        await replica.spend(100)
        waits = []
        for _ in range(500):
            replica.forget_calls()
            await replica.spend(100)
            waits.append(len(replica.line.calls))
            await asyncio.sleep(0.001)
        assert sum(waits) < 50
        assert balance(registry)["spent"] == 501 * 100

    run(ask())


def test_an_answer_that_was_billed_already_costs_nothing(registry: Registry, replica: Replica) -> None:
    give(registry, 100)

    async def twice(reserved: int, used: int) -> None:
        other = Replica(registry, f"other_{replica.num}")
        other.name, other.num = replica.name, replica.num  # its record is of the same request
        await other.spend(20)
        await landed(other)
        registry.credits.end_holder(f"other_{replica.num}")
        paying = (await replica.reserve(reserved)).settle(used)
        replica.num += 1
        record = make_record(f"r1_{replica.num}", amount_ucr=used, leases=paying, time=7)
        with pytest.raises(AnsweredTwice):
            registry.ledger.append([record])
        replica.leases.give_back([record])

    async def ask() -> None:
        await twice(reserved=60, used=60)
        await twice(reserved=60, used=50)
        first = await replica.reserve(60)
        with pytest.raises(PaymentRequired):
            await replica.reserve(1)
        await replica.settle(first, 60)
        assert balance(registry) == {"available": 0, "spent": 100, "leased": 0, "overrun": 0}

    run(ask())


def test_what_is_not_sure_is_not_given_back(registry: Registry, replica: Replica) -> None:
    give(registry, 100)

    async def ask() -> None:
        paying = (await replica.reserve(10)).settle(10)
        replica.leases.give_back([make_record("x", amount_ucr=10, leases=(*paying, "lease_gone"))])
        paying = (await replica.reserve(10)).settle(30)
        replica.leases.give_back([make_record("y", amount_ucr=30, leases=paying)])
        await replica.reserve(80)
        with pytest.raises(PaymentRequired):
            await replica.reserve(1)

    run(ask())


def test_what_there_is_is_told_to_who_may_see_it(registry: Registry, replica: Replica) -> None:
    give(registry, 100)
    budget = Budget(kind=BudgetKind.USER, name=ADMIN.user, granted_ucr=50)

    async def told(caller: Caller) -> str:
        with pytest.raises(PaymentRequired) as refused:
            await replica.leases.open(caller).take(101)
        return refused.value.message

    async def ask() -> None:
        analyst = ADMIN.model_copy(update={"role": "ANALYST"})
        assert "balance has 0.0001 credits available; this may cost 0.000101." in await told(ADMIN)
        assert "balance has too little; this may cost 0.000101." in await told(analyst)
        registry.budgets.set(ADMIN, budget)
        give(registry, 100, "k2")
        replica.clock.now += KNOWN_SECONDS + 1
        assert "budget of user admin has 0.00005 credits available" in await told(ADMIN)
        assert "budget of user admin has too little; this may cost 0.000101." in await told(analyst)

    run(ask())


def test_no_more_is_reserved_than_there_is(registry: Registry, replica: Replica) -> None:
    give(registry, 100)

    async def ask() -> None:
        first = await replica.reserve(60)
        with pytest.raises(PaymentRequired, match=r"0\.00004 credits available") as refused:
            await replica.reserve(41)
        assert refused.value.retry_after == 1
        second = await replica.reserve(40)
        with pytest.raises(PaymentRequired):
            await replica.reserve(1)
        await replica.settle(first, 10)
        third = await replica.reserve(50)
        await replica.settle(second, 40)
        await replica.settle(third, 50)
        replica.clock.now += SURE_SECONDS
        with pytest.raises(PaymentRequired) as refused:
            await replica.reserve(1)
        assert refused.value.retry_after is None

    run(ask())
    assert balance(registry) == {"available": 0, "spent": 100, "leased": 0, "overrun": 0}


def test_a_top_up_is_seen_by_who_was_refused(registry: Registry, replica: Replica) -> None:
    registry.credits.limit(ADMIN, "main")

    async def ask() -> None:
        for _ in range(50):
            with pytest.raises(PaymentRequired):
                await replica.reserve(1)
        assert len(replica.line.calls) == 2
        give(registry, 5)
        replica.clock.now += SURE_SECONDS
        await replica.spend(5)

    run(ask())


def test_what_one_replica_lets_go_of_another_has(registry: Registry, replica: Replica) -> None:
    give(registry, 100)
    other = Replica(registry, "r2")

    async def ask() -> None:
        await replica.spend(10)
        await other.spend(10)
        assert balance(registry)["leased"] > 0
        for _ in range(12):
            for each in (replica, other):
                each.clock.now += 2
                await each.leases.renew_all()
        await other.spend(60)
        await landed(other)
        for each in (replica, other):
            each.clock.now += QUIET_SECONDS + 1
            await each.leases.renew_all()

    run(ask())
    assert balance(registry) == {"available": 20, "spent": 80, "leased": 0, "overrun": 0}


def test_without_the_registry_a_lease_works_on_until_its_end(registry: Registry, replica: Replica) -> None:
    give(registry, 10**6)

    async def ask() -> None:
        running = await replica.reserve(100)
        await landed(replica)
        replica.line.is_cut = True
        replica.clock.now += ALONE_SECONDS - 0.1
        late = await replica.reserve(100)
        replica.clock.now += 0.2
        with pytest.raises(Unavailable):
            await replica.reserve(100)
        await replica.settle(running, 100)
        replica.line.is_cut = False
        await replica.spend(100)
        await replica.settle(late, 50)

    run(ask())
    assert balance(registry)["spent"] == 250
    assert balance(registry)["overrun"] == 0


def test_an_unknown_caller_waits_for_the_registry(replica: Replica) -> None:
    async def ask() -> None:
        replica.line.is_cut = True
        with pytest.raises(Unavailable):
            await replica.reserve(1)
        replica.line.is_cut = False
        await replica.spend(1)
        replica.line.is_cut = True
        replica.clock.now += 2 * KNOWN_SECONDS
        await replica.spend(1)

    run(ask())


def test_answers_that_are_lost_give_nothing_away(registry: Registry, replica: Replica) -> None:
    give(registry, 1000)

    async def ask() -> None:
        running = await replica.reserve(10)
        for loses in (True, False, True, True, False):
            replica.line.loses_answers = loses
            replica.clock.now += 2
            await asyncio.gather(replica.leases.renew_all(), return_exceptions=True)
            (purse,) = replica.leases._purses.values()
            (row,) = registry.credits._store.rows(registry.credits._limits._reservations.select())
            assert purse.lease.used + purse.lease.open <= purse.lease.total <= row["amount_ucr"]
        await replica.settle(running, 10)

    run(ask())
    assert balance(registry)["spent"] == 10


def test_a_lease_that_ended_without_us_is_replaced(registry: Registry, replica: Replica) -> None:
    give(registry, 1000)

    async def ask() -> None:
        running = await replica.reserve(100)
        await landed(replica)
        assert registry.credits.end_holder("r1") == 1
        replica.clock.now += 2
        await replica.leases.renew_all()
        await replica.spend(50)
        await replica.settle(running, 100)

    run(ask())
    found = balance(registry)
    assert (found["spent"], found["overrun"]) == (150, 100)


def test_a_cancelled_wait_takes_nothing(registry: Registry, replica: Replica) -> None:
    give(registry, 100)

    async def ask() -> None:
        task = asyncio.create_task(replica.reserve(80))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while replica.leases._looks:
            await asyncio.sleep(0)
        await replica.spend(100)

    run(ask())
    assert balance(registry)["spent"] == 100


def test_one_request_with_many_prompts_pays_once(registry: Registry, replica: Replica) -> None:
    give(registry, 1000)

    async def ask() -> None:
        reservation = replica.leases.open(ADMIN)
        for _ in range(3):
            await reservation.take(100)
        assert len(reservation.settle(150)) == 1
        assert reservation.settle(150) == ()
        await replica.spend(800)

    run(ask())


def concurrently(work: Callable[[], Awaitable[bool]], num: int) -> list[bool]:
    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(work() for _ in range(num)))

    return asyncio.run(all_of_them())


def test_many_at_once_get_what_there_is_and_no_more(registry: Registry, replica: Replica) -> None:
    give(registry, 1000)

    async def ask() -> bool:
        try:
            await replica.spend(7)
        except PaymentRequired:
            return False
        return True

    answers = concurrently(ask, 300)
    assert sum(answers) == 1000 // 7
    assert balance(registry)["spent"] == 7 * (1000 // 7)
