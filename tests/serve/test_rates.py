"""Rates in a replica: taken in memory, given back, leased ahead; the sum over replicas stays within each minute."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from luthier.errors import RateLimited, Unavailable
from luthier.platform.models import Resolved
from luthier.platform.rates import MINUTE_MS, Asker, RateLimit, RateRenewal, RateState, RateWant, Unit, asker
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.metering.rates import AHEAD_SECONDS, LARGE_MINUTES, Allowance, Rates
from tests.factories import ADMIN, add_admin
from tests.fakes import Clock, Launcher
from tests.waiting import SECONDS

MODEL = Resolved(name="tiny", base_model="tiny")


class Line:
    """The way to the registry; calls are counted, and a test cuts it."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.num_calls, self.is_cut = registry, 0, False

    def renew(self, holder: str, asking: Sequence[Asker], wants: Sequence[RateWant]) -> RateRenewal:
        self.num_calls += 1
        if self.is_cut:
            raise Unavailable("away")
        return self.registry.rates.renew(holder, asking, wants)


class Replica:
    def __init__(self, registry: Registry, clock: Clock, name: str = "r1") -> None:
        self.line = Line(registry)
        self.rates = Rates(self.line, name, clock)

    async def take(self, tokens: int = 1) -> Allowance:
        allowance = self.rates.open(ADMIN, MODEL)
        await allowance.take(tokens)
        return allowance

    async def is_let_in(self, tokens: int = 1) -> bool:
        try:
            await self.take(tokens)
        except RateLimited:
            return False
        return True


@pytest.fixture
def clock() -> Clock:
    """Of all replicas; the registry's minute begins at 60, 120, ..."""
    return Clock()


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, clock: Clock) -> Registry:
    registry = Registry(settings, launcher, lambda: int(clock.now * 1000))
    add_admin(registry)
    return registry


@pytest.fixture
def replica(registry: Registry, clock: Clock) -> Replica:
    return Replica(registry, clock)


def limit(registry: Registry, **given: int) -> None:
    registry.rates.set(ADMIN, RateLimit(model=MODEL.name, **given))


def run(work: Awaitable[Any]) -> None:
    async def settled() -> None:
        await work
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(settled())


async def landed(replica: Replica) -> None:
    while any(purse.flight for purse in replica.rates._purses.values()):
        await asyncio.sleep(0)


def test_without_limits_nobody_waits_and_nothing_is_told(replica: Replica) -> None:
    async def ask() -> None:
        for _ in range(1000):
            allowance = await replica.take(10**9)
            assert allowance.state is None
            allowance.settle(10**9)
        assert replica.line.num_calls == 1

    run(ask())


def test_requests_up_to_the_limit_and_no_more(registry: Registry, replica: Replica, clock: Clock) -> None:
    limit(registry, requests=10)

    async def ask() -> None:
        assert [await replica.is_let_in() for _ in range(12)] == [True] * 10 + [False] * 2
        with pytest.raises(RateLimited, match="on model tiny reached: 10 requests per minute, 0 remaining") as refused:
            await replica.take()
        assert refused.value.retry_after == 21  # from 100 to 120, and a little for the clocks
        state = refused.value.rates
        assert isinstance(state, RateState)
        assert state.requests
        assert state.requests[:2] == (10, 0)
        assert state.tokens is None
        clock.now += refused.value.retry_after
        assert [await replica.is_let_in() for _ in range(12)] == [True] * 10 + [False] * 2

    run(ask())


def test_tokens_that_were_not_used_are_free_again(registry: Registry, replica: Replica) -> None:
    limit(registry, tokens=100)

    async def ask() -> None:
        first = await replica.take(90)
        assert not await replica.is_let_in(20)
        assert first.state.tokens.remaining == 10
        first.settle(30)
        second = await replica.take(70)
        second.settle(70)
        assert not await replica.is_let_in(1)

    run(ask())


def test_what_never_came_to_the_engine_is_no_request(registry: Registry, replica: Replica) -> None:
    limit(registry, requests=1, tokens=100)

    async def ask() -> None:
        (await replica.take(10)).settle(0)
        (await replica.take(10)).settle(5)
        assert not await replica.is_let_in()

    run(ask())


def test_prompts_of_one_request_count_it_once(registry: Registry, replica: Replica) -> None:
    limit(registry, requests=1, tokens=100)

    async def ask() -> None:
        allowance = replica.rates.open(ADMIN, MODEL)
        await asyncio.gather(*(allowance.take(20) for _ in range(3)))
        assert allowance.state.tokens.remaining == 40
        allowance.settle(60)
        assert not await replica.is_let_in(1)

    run(ask())


def test_lines_of_batches_wait_for_those_of_the_same_limit_alone(registry: Registry, replica: Replica) -> None:
    limit(registry, requests=10)
    registry.rates.set(ADMIN, RateLimit(model="limited", requests=10))

    async def take(model: Resolved) -> None:
        await replica.rates.open(ADMIN, model, gives_way=True).take(1)

    async def ask() -> None:
        async with replica.rates.spare(asker(ADMIN, MODEL), {Unit.REQUESTS: 1, Unit.TOKENS: 1}):
            same = asyncio.create_task(take(MODEL))
            async with asyncio.timeout(SECONDS):
                for name in ("limited", "free"):
                    await take(Resolved(name=name, base_model="tiny"))
            assert not same.done()
        await same

    run(ask())


def test_a_large_line_of_a_batch_has_its_turn_beside_live_traffic(
    registry: Registry, replica: Replica, clock: Clock
) -> None:
    limit(registry, tokens=100)

    async def minute_of(*lines: int) -> list[bool]:
        """Ten tokens of a live request, then what lines ask for."""
        await replica.take(10)
        taken = []
        for tokens in lines:
            try:
                await replica.rates.open(ADMIN, MODEL, gives_way=True).take(tokens)
                taken.append(True)
            except RateLimited:
                taken.append(False)
        clock.now += MINUTE_MS / 1000
        return taken

    async def ask() -> None:
        for _ in range(2):
            assert [await minute_of(60) for _ in range(LARGE_MINUTES)] == [[False]] * LARGE_MINUTES
            assert await minute_of(91, 60, 30) == [False, True, False]

    run(ask())


def test_what_no_minute_has_room_for_is_not_sent_again(registry: Registry, replica: Replica) -> None:
    limit(registry, tokens=100)

    async def ask() -> None:
        with pytest.raises(RateLimited, match="never fits") as refused:
            await replica.take(101)
        assert refused.value.retry_after is None
        assert await replica.is_let_in(100)

    run(ask())


def test_a_key_that_asks_steadily_never_waits_for_the_registry(
    registry: Registry, replica: Replica, clock: Clock
) -> None:
    limit(registry, requests=1000, tokens=100_000)

    async def ask() -> None:
        waits = 0
        clock.now += 0.25
        for second in range(400):
            clock.now += 0.5
            if second % 4 == 0:
                await replica.rates.renew_all()
            calls = replica.line.num_calls
            task = asyncio.create_task(replica.take(50))
            await asyncio.sleep(0)
            waits += not task.done()
            (await task).settle(20)
            await landed(replica)
            assert replica.line.num_calls - calls <= 1 or second == 0
        assert waits <= 2, "the first request, and once to get into step"

    run(ask())


def test_what_a_dead_replica_held_comes_back_with_the_minute(
    registry: Registry, replica: Replica, clock: Clock
) -> None:
    limit(registry, requests=8)
    other = Replica(registry, clock, "r2")

    async def ask() -> None:
        await replica.take()
        await landed(replica)
        assert 7 > sum([await other.is_let_in() for _ in range(8)]) >= 5
        clock.now = 120.02
        assert sum([await other.is_let_in() for _ in range(9)]) == 8

    run(ask())


def test_some_of_the_next_minute_is_leased_before_it_begins(registry: Registry, replica: Replica, clock: Clock) -> None:
    limit(registry, requests=100)

    async def ask() -> None:
        await replica.take()
        await landed(replica)
        clock.now = 120 - AHEAD_SECONDS + 2
        await replica.rates.renew_all()
        clock.now = 120.02
        calls = replica.line.num_calls
        await replica.take()
        assert replica.line.num_calls == calls

    run(ask())


def test_without_the_registry_what_is_leased_goes_on_and_no_further(
    registry: Registry, replica: Replica, clock: Clock
) -> None:
    limit(registry, requests=100)

    async def ask() -> None:
        await replica.take()
        await landed(replica)
        replica.line.is_cut = True
        assert await replica.is_let_in()
        clock.now = 121
        with pytest.raises(Unavailable):
            await replica.take()

    run(ask())


def test_an_answer_of_another_minute_takes_no_lease_away(registry: Registry, replica: Replica, clock: Clock) -> None:
    """Two answers may differ by milliseconds on when a minute ends: what is used of it stays used."""
    limit(registry, requests=4)

    async def ask() -> None:
        clock.now = 120.02
        for _ in range(4):
            await replica.take()
        replica.rates._minutes.heard(1, 5, clock.now - 0.001)  # late: the minute before has not quite ended
        clock.now += 0.1
        assert not await replica.is_let_in()

    run(ask())


def test_a_clock_that_is_set_back_is_followed(registry: Registry, replica: Replica, clock: Clock) -> None:
    limit(registry, requests=4)

    async def ask() -> None:
        assert await replica.is_let_in()
        registry.rates._clock = lambda: int(clock.now * 1000) - 30 * MINUTE_MS + 3_600_000
        clock.now += 2
        await replica.rates.renew_all()
        assert await replica.is_let_in()

    run(ask())
