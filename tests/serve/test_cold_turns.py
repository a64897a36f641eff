"""An adapter that is not in memory waits once for a slot of the engine: its proof's turn goes to who asked first."""

import asyncio
import time
from pathlib import Path
from random import Random

import pytest

from luthier.errors import AdapterRefused
from luthier.platform.settings import Settings
from tests.serve.loading_bench import SLOTS, Bench, run

OTHERS = range(100, 100 + SLOTS)


async def is_free(bench: Bench) -> bool:
    """Every slot: as many others may go to the engine at once."""
    async with asyncio.timeout(1):
        turns = [await bench.turns.take(other, 0, time.monotonic()) for other in OTHERS]
    for end in turns:
        end()
    return True


def test_who_asked_first_goes_on_with_the_proofs_turn(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        busy = [await bench.turns.take(other, 0, time.monotonic()) for other in OTHERS]
        cold = asyncio.create_task(bench.loader.hold(bench.version(1)))
        await bench.until(lambda: 1 in bench.engine.held)
        busy.pop()()
        later = asyncio.create_task(bench.turns.take(200, 0, time.monotonic()))
        async with asyncio.timeout(10):
            turn = await cold
        assert turn, "it need not wait behind the later one"
        assert not later.done()
        turn()
        (await later)()
        busy.pop()()
        assert await is_free(bench)

    run(settings, tmp_path, story)


def test_of_many_who_asked_one_has_it_and_the_others_go_beside(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        turns = await asyncio.gather(*(bench.loader.hold(version) for _ in range(4)))
        (turn,) = filter(None, turns)
        async with asyncio.timeout(1):
            (await bench.turns.take(version.number, 0, time.monotonic()))()
        turn()
        assert await is_free(bench)

    run(settings, tmp_path, story)


@pytest.mark.parametrize("seed", range(40))
def test_whoever_leaves_whenever_no_turn_is_lost(settings: Settings, tmp_path: Path, seed: int) -> None:
    """Some leave at any step of the load, and some adapters are refused."""

    async def story(bench: Bench) -> None:
        random, versions = Random(seed), [bench.version(number) for number in range(1, 5)]
        bench.engine.faults[3] = "rank 99"

        async def come() -> None:
            for _ in range(random.randrange(8)):
                await asyncio.sleep(0)
            await bench.ask(random.choice(versions))

        crowd = [asyncio.create_task(come()) for _ in range(12)]
        while not all(one.done() for one in crowd):
            random.choice(crowd).cancel()
            for _ in range(random.randrange(40)):
                await asyncio.sleep(0)
        ends = await asyncio.gather(*crowd, return_exceptions=True)
        assert {type(end) for end in ends} <= {type(None), AdapterRefused, asyncio.CancelledError}
        await bench.until(lambda: not bench.loader._flights)
        assert await is_free(bench)

    run(settings, tmp_path, story)


def test_what_is_loaded_before_anybody_asks_leaves_no_turn(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        asking = asyncio.create_task(bench.ask(bench.version(1)))
        await bench.until(lambda: bench.engine.num_begun)
        asking.cancel()
        await asyncio.wait([asking])
        await bench.until(lambda: not bench.loader._flights)
        assert await is_free(bench)

    run(settings, tmp_path, story)


def test_who_leaves_just_when_it_is_there_leaves_no_turn(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        asking = asyncio.create_task(bench.ask(bench.version(1)))
        await bench.until(lambda: bench.loader._flights)
        bench.loader._flights[1].task.add_done_callback(lambda _: asking.cancel())
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert await is_free(bench)

    run(settings, tmp_path, story)
