"""Turns: never more adapters than slots, nobody passed over for ever, nobody lost."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from luthier.serve.adapters.turns import BATCH_PATIENCE_SECONDS, PATIENCE_SECONDS, Turns
from tests.fakes import Clock

LIVE, BATCH = 0, 10
End = Callable[[], None]
A, B, C, D = range(1, 5)


class Crowd:
    """Requests that come, run and end, each with its adapter."""

    def __init__(self, num_slots: int) -> None:
        self.clock = Clock()
        self.turns = Turns(num_slots, self.clock)
        self.waiting: list[tuple[int, asyncio.Task[End]]] = []
        self.running: list[tuple[int, End]] = []

    async def come(self, adapter: int, priority: int = LIVE) -> bool:
        """Whether it runs at once."""
        num = len(self.running)
        self.waiting.append((adapter, asyncio.create_task(self.turns.take(adapter, priority, self.clock.now))))
        await self.look()
        return len(self.running) > num

    async def look(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        let_in = [(adapter, task) for adapter, task in self.waiting if task.done()]
        self.waiting = [each for each in self.waiting if each not in let_in]
        self.running += [(adapter, task.result()) for adapter, task in let_in]

    async def end(self, which: int = 0) -> None:
        self.running.pop(which)[1]()
        await self.look()

    async def leave(self, which: int) -> None:
        _, task = self.waiting.pop(which)
        task.cancel()
        await self.look()

    def who(self) -> list[int]:
        return [adapter for adapter, _ in self.running]


def run() -> Callable[[Callable[[Crowd], Awaitable[None]]], Callable[[], None]]:
    """The test is a coroutine over a crowd before two slots."""

    def made(test: Callable[[Crowd], Awaitable[None]]) -> Callable[[], None]:
        def ran() -> None:
            async def story() -> None:
                await test(Crowd(2))

            asyncio.run(story())

        ran.__name__, ran.__doc__ = test.__name__, test.__doc__
        return ran

    return made


@run()
async def test_a_free_slot_goes_to_who_waits_longest(crowd: Crowd) -> None:
    assert [await crowd.come(each) for each in (A, B, C, D)] == [True, True, False, False]
    await crowd.end()
    assert crowd.who() == [B, C]
    await crowd.end()
    assert crowd.who() == [C, D]


@run()
async def test_who_has_a_slot_comes_in_while_nobody_waits_too_long(crowd: Crowd) -> None:
    assert [await crowd.come(each) for each in (A, B, C)] == [True, True, False]
    crowd.clock.now += PATIENCE_SECONDS / 2
    assert await crowd.come(A)
    assert await crowd.come(B)


@run()
async def test_an_overdue_one_closes_the_slot_that_was_taken_first(crowd: Crowd) -> None:
    for each in (A, A, B, C):
        await crowd.come(each)
    crowd.clock.now += PATIENCE_SECONDS * 2
    assert not await crowd.come(A)
    assert await crowd.come(B)
    await crowd.end()  # A's last request but one: C is there when it ends
    assert crowd.who() == [A, B, B, C]
    assert not await crowd.come(A)
    await crowd.end()
    assert A not in crowd.who()  # B and C have the slots
    crowd.clock.now += PATIENCE_SECONDS * 2
    assert not await crowd.come(B)
    await crowd.end()
    assert crowd.who() == [B, C, A, A]


@run()
async def test_a_slot_opens_again_when_nobody_is_overdue_any_more(crowd: Crowd) -> None:
    for each in (A, A, B, C):
        await crowd.come(each)
    crowd.clock.now += PATIENCE_SECONDS * 2
    assert not await crowd.come(A)
    await crowd.end(2)  # B's only one
    assert crowd.who() == [A, A, C, A]


@run()
async def test_many_that_are_overdue_come_in_one_after_another(crowd: Crowd) -> None:
    for adapter in range(20):
        await crowd.come(adapter)
    crowd.clock.now += PATIENCE_SECONDS * 2
    for num_left in reversed(range(20)):
        assert len(crowd.who()) == min(4, num_left + 1) or num_left == 19
        await crowd.end()
    assert not crowd.waiting


@run()
async def test_batches_come_after_and_wait_longer(crowd: Crowd) -> None:
    for each in (A, A, B, B):
        await crowd.come(each)
    await crowd.come(C, BATCH)
    crowd.clock.now += PATIENCE_SECONDS * 2
    assert await crowd.come(A)
    assert not await crowd.come(D)
    await crowd.end(3)
    await crowd.end(2)
    assert D in crowd.who()
    assert C not in crowd.who()
    crowd.clock.now += BATCH_PATIENCE_SECONDS
    assert not await crowd.come(A)


@run()
async def test_who_leaves_is_forgotten(crowd: Crowd) -> None:
    for each in (A, A, B, B, C, D):
        await crowd.come(each)
    crowd.clock.now += PATIENCE_SECONDS * 2
    await crowd.leave(0)
    await crowd.leave(0)
    assert await crowd.come(A)


@run()
async def test_who_is_cancelled_as_it_is_let_in_keeps_no_slot(crowd: Crowd) -> None:
    for each in (A, B, C, D):
        await crowd.come(each)
    (_, first), (_, second) = crowd.waiting
    first.cancel()  # before it has run again its turn may come
    crowd.running.pop(0)[1]()
    crowd.running.pop(0)[1]()
    second.cancel()  # after its turn came
    await asyncio.gather(first, second, return_exceptions=True)
    assert first.cancelled()
    assert second.cancelled()
    crowd.waiting = []
    assert [await crowd.come(each) for each in (A, B, C)] == [True, True, False]


@run()
async def test_who_ends_late_keeps_nobody_from_a_free_slot(crowd: Crowd) -> None:
    """A's long answer was the last in a slot that was given away; there is room again before it ends."""
    for each in (A, A, C, B):
        await crowd.come(each)
    crowd.clock.now += PATIENCE_SECONDS * 2
    await crowd.end()
    assert crowd.who() == [A, C, B]
    await crowd.end(2)
    await crowd.end(1)
    assert crowd.who() == [A]
    assert await crowd.come(A)
    assert await crowd.come(D)
    crowd.clock.now += PATIENCE_SECONDS * 2
    assert await crowd.come(D)


@run()
async def test_nobody_starves_where_others_never_cease(crowd: Crowd) -> None:
    """With vLLM's own rule C and D would wait for ever."""
    for each in (A, A, B, B, C, D):
        await crowd.come(each)
    served = Counter[int]()
    for _ in range(100):
        crowd.clock.now += 0.05
        adapter = crowd.who()[0]
        await crowd.end()
        served[adapter] += 1
        await crowd.come(adapter)  # whoever is answered asks again
    assert min(served[each] for each in (A, B, C, D)) >= 8


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 9), st.sampled_from([LIVE, BATCH])),
        st.tuples(st.sampled_from(["end", "leave"]), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("time"), st.sampled_from([1, 10, 100]), st.just(0)),
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 4))
def test_any_order(steps: list[tuple[str, int, int]], num_slots: int) -> None:
    async def story() -> None:
        crowd = Crowd(num_slots)
        for what, number, priority in steps:
            if what == "come":
                await crowd.come(number, priority)
            elif what == "time":
                crowd.clock.now += number * 0.1
            elif what == "end" and crowd.running:
                await crowd.end(number % len(crowd.running))
            elif what == "leave" and crowd.waiting:
                await crowd.leave(number % len(crowd.waiting))
            # Beyond the slots there may be those that begin when another's last request ends.
            assert len(set(crowd.who())) <= 2 * num_slots
            alone = [adapter for adapter in set(crowd.who()) if crowd.who().count(adapter) == 1]
            assert len(set(crowd.who())) <= num_slots + len(alone)
            assert len(set(crowd.who())) >= min(num_slots, len({*crowd.who(), *(each for each, _ in crowd.waiting)}))
        while crowd.running:
            await crowd.end()
        assert not crowd.waiting

    asyncio.run(story())
