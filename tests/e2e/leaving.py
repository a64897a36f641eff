"""Clients that leave an engine, and those that come after: by vLLM's own counters."""

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from luthier.serve.complete import Tally
from tests.e2e.asked import PLACES, Asked
from tests.e2e.live import LONG, SECONDS


async def a_crowd_leaves(asked: Asked) -> None:
    """More than run at once, some of them whole, some many at once; vLLM counts no other tokens than the tallies."""
    before = engine_tokens()
    tallies = [Tally() for _ in range(40)]
    asks = [asked.ask("whole", tally, max_tokens=LONG, n=1 + at % 2) for at, tally in enumerate(tallies)]
    tasks = [asyncio.create_task(each) for each in asks]
    while engine_tokens() < before + 2_000:
        await asyncio.sleep(0.01)
    left = engine_tokens()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    asked.check_idle()
    assert all(tally.prompt for tally in tallies)
    assert not all(tally.completion for tally in tallies)
    await asked.ask("whole", tally := Tally())
    assert engine_tokens() - left < LONG * PLACES / 2  # it did not wait for what they left behind
    assert (sample("num_requests_running"), sample("num_requests_waiting")) == (0, 0)
    assert engine_tokens() - before == sum(each.completion for each in (*tallies, tally))


def engine_tokens() -> float:
    return sample("generation_tokens_total")


def sample(name: str) -> float:
    """A metric of vLLM's own."""
    found = [each.value for metric in REGISTRY.collect() for each in metric.samples if each.name == f"vllm:{name}"]
    return sum(found)


async def a_client_leaves_a_stream(asked: Asked, n: int) -> None:
    tally = Tally()
    stream = asked.ask("stream", tally, max_tokens=LONG, n=n)
    for _ in range(5):
        await anext(stream)
    handed_over = tally.completion
    await asked.made_more_than(handed_over)
    await stream.aclose()
    assert 5 <= handed_over < tally.completion < LONG * n
    asked.check_idle()


async def a_client_that_does_not_read_holds_nobody_up(asked: Asked) -> None:
    """Half of the engine's places are its own, and it takes one piece; the others' streams go on to their ends. What
    was generated for it is counted when it leaves."""
    before, n = engine_tokens(), PLACES // 2
    slow = asked.ask("stream", tally := Tally(), max_tokens=LONG, n=n)
    await anext(slow)
    taken, others = tally.completion, [Tally() for _ in range(n)]
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(asked.streamed(each, max_tokens=LONG) for each in others))
    assert [each.completion for each in others] == [LONG] * n
    assert tally.completion == taken
    await slow.aclose()
    assert taken < tally.completion <= n * LONG
    assert engine_tokens() - before == tally.completion + n * LONG
    asked.check_idle()


async def a_client_leaves_before_the_whole_answer(asked: Asked, n: int) -> None:
    task = asyncio.create_task(asked.ask("whole", tally := Tally(), max_tokens=LONG, n=n))
    while asked.engine._engine.get_num_unfinished_requests() < n:
        assert not task.done()
        await asyncio.sleep(0.001)
    await asked.made_more_than(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tally.prompt > 0
    assert 0 < tally.completion < LONG * n
    asked.check_idle()


async def a_client_leaves_at_any_moment(asked: Asked, n: int) -> None:
    """Before vLLM has the request, in the middle, and when the answer is there but not yet taken."""
    for num_steps in (*range(12), *range(12, 200, 20)):
        task = asyncio.create_task(asked.ask("whole", tally := Tally(), n=n))
        for _ in range(num_steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert 0 <= tally.completion <= 8 * n
        asked.check_idle()
    await asked.ask("whole", tally := Tally(), n=n)
    assert tally.completion == 8 * n


async def live_requests_go_before_batches(asked: Asked) -> None:
    """With every place taken it gets the first that is free, before the lines that came earlier."""
    lines = [asyncio.create_task(asked.ask("whole", Tally(), max_tokens=64, priority=1)) for _ in range(3 * PLACES)]
    while asked.engine._engine.get_num_unfinished_requests() + (before := num_done(lines)) < len(lines):
        await asyncio.sleep(0.001)
    await asked.ask("whole", Tally())
    assert num_done(lines) - before <= PLACES
    assert all(choices[0].finish_reason == "length" for choices in await asyncio.gather(*lines))
    asked.check_idle()


def num_done(tasks: "list[asyncio.Task[Any]]") -> int:
    return sum(task.done() for task in tasks)
