"""Room at an engine: as many sequences as it has, in the order in which they came."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from luthier.serve.room import Room
from tests.waiting import SECONDS


class Line:
    """One that asks for places, and leaves when it is told to."""

    def __init__(self, room: Room, num: int) -> None:
        self.is_in, self._may_leave = False, asyncio.Event()
        self.task = asyncio.create_task(self._stay(room, num))

    async def _stay(self, room: Room, num: int) -> None:
        async with room.places(num):
            self.is_in = True
            await self._may_leave.wait()
        self.is_in = False

    async def leave(self) -> None:
        self._may_leave.set()
        await self.task
        await settled()


async def settled() -> None:
    """Whoever can go on has done so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def lines(room: Room, *nums: int) -> list[Line]:
    made = [Line(room, num) for num in nums]
    await settled()
    return made


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), SECONDS))


def test_what_they_ask_for_together_is_never_more() -> None:
    async def story() -> None:
        first, second, third = await lines(Room(4), 3, 1, 1)
        assert (first.is_in, second.is_in, third.is_in) == (True, True, False)
        await second.leave()
        assert third.is_in
        await first.leave()
        await third.leave()

    run(story)


def test_one_that_asks_for_more_than_there_is_has_all() -> None:
    async def story() -> None:
        large, small = await lines(Room(2), 16, 1)
        assert (large.is_in, small.is_in) == (True, False)
        await large.leave()
        assert small.is_in
        await small.leave()

    run(story)


def test_a_large_one_is_not_passed() -> None:
    async def story() -> None:
        small, large, late = await lines(Room(4), 1, 4, 1)
        assert (large.is_in, late.is_in) == (False, False)
        await small.leave()
        assert (large.is_in, late.is_in) == (True, False)
        await large.leave()
        assert late.is_in
        await late.leave()

    run(story)


@pytest.mark.parametrize("is_in", [True, False])
def test_who_is_cancelled_keeps_nothing(is_in: bool) -> None:
    async def story() -> None:
        room = Room(4)
        first, second, third = await lines(room, 4, 4, 2)
        (first if is_in else second).task.cancel()
        await settled()
        assert (second.is_in, third.is_in) == (is_in, False)
        await (second if is_in else first).leave()
        assert third.is_in
        await third.leave()

    run(story)
