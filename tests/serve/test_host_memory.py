"""Host memory: the least recently used makes room, and none that is in use; nobody waits for room for ever."""

import asyncio
from collections.abc import Awaitable

from luthier.serve.adapters.host_memory import PATIENCE_SECONDS, HostMemory
from tests.fakes import Clock

A, B, C = range(1, 4)


async def started(work: Awaitable[object]) -> "asyncio.Task[object]":
    """As far as it comes now."""
    task = asyncio.ensure_future(work)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def filled(clock: Clock, *numbers: int) -> HostMemory:
    """As large as these, each with one user."""
    memory = HostMemory(len(numbers), clock)
    for number in numbers:
        assert await memory.room() is None
        memory.fill(number, 1)
    return memory


def test_the_least_recently_used_that_is_idle_makes_room() -> None:
    async def story() -> None:
        memory = await filled(Clock(), A, B)
        memory.give_back(B)
        assert await memory.take(A)
        assert await memory.room() == B
        memory.fill(C, 1)
        assert memory.numbers() == [A, C]
        assert not await memory.take(B)

    asyncio.run(story())


def test_who_waits_for_room_gets_it_where_others_never_cease() -> None:
    """Each adapter has another user before the last one leaves."""

    async def story() -> None:
        clock = Clock()
        memory = await filled(clock, A, B)
        waiting = await started(memory.room())
        for number in (A, B):
            assert await memory.take(number)
            memory.give_back(number)
        assert not waiting.done()
        clock.now += PATIENCE_SECONDS * 2
        late = await started(memory.take(A))
        assert await memory.take(B)
        assert not late.done()
        memory.give_back(A)
        assert await waiting == A
        memory.fill(C, 1)
        assert await late is False  # it is to be loaded again

    asyncio.run(story())


def test_a_closed_one_opens_when_room_is_found_elsewhere() -> None:
    async def story() -> None:
        clock = Clock()
        memory = await filled(clock, A, B)
        waiting = await started(memory.room())
        clock.now += PATIENCE_SECONDS * 2
        late = await started(memory.take(A))
        memory.give_back(B)
        assert await waiting == B
        assert await late is True
        assert memory.numbers() == [A]

    asyncio.run(story())


def test_who_ceases_to_wait_closes_nothing() -> None:
    async def story() -> None:
        clock = Clock()
        memory = await filled(clock, A)
        waiting = await started(memory.room())
        clock.now += PATIENCE_SECONDS * 2
        late = await started(memory.take(A))
        waiting.cancel()
        assert await late is True

    asyncio.run(story())
