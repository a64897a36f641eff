"""One question for many callers; old answers while a new one is fetched; refusals are never remembered."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from luthier.errors import NotFound, Unavailable
from luthier.serve import remember
from luthier.serve.remember import Remembered
from luthier.serve.threads import REGISTRY
from tests.fakes import Clock

SOFT, HARD = 2.0, 4.0


class Source:
    """What is asked: it answers from a dict, at once or when it is let."""

    def __init__(self) -> None:
        self.answers: dict[str, str | Exception] = {}
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, key: str) -> str:
        answer = self.answers.get(key, NotFound("nothing"))
        self.asked.append(key)
        assert self.may_answer.wait(20)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def remembered(source: Source, clock: Clock) -> Remembered[str, str]:
    return Remembered(lambda key: REGISTRY.run(source, key), SOFT, HARD, clock)


async def landed(remembered: Remembered[str, str]) -> None:
    """Until what is being fetched is there."""
    while len(remembered._flights):
        await asyncio.sleep(0.001)


async def asked(source: Source, times: int) -> None:
    while len(source.asked) < times:
        await asyncio.sleep(0.001)


async def together(*calls: Coroutine[Any, Any, str]) -> list[str | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


def test_many_callers_ask_once(remembered: Remembered[str, str], source: Source) -> None:
    source.answers = {"a": "1", "b": "2"}

    async def callers() -> list[str | BaseException]:
        return await together(*(remembered.get(key) for key in "ab" * 64))

    assert asyncio.run(callers()) == ["1", "2"] * 64
    assert sorted(source.asked) == ["a", "b"]


def test_fresh_then_old_then_gone(remembered: Remembered[str, str], source: Source, clock: Clock) -> None:
    async def story() -> None:
        source.answers["a"] = "1"
        assert await remembered.get("a") == "1"
        source.answers["a"] = "2"
        clock.now += SOFT * 0.99
        assert await remembered.get("a") == "1"
        assert source.asked == ["a"]
        clock.now += SOFT * 0.02
        assert await together(*(remembered.get("a") for _ in range(64))) == ["1"] * 64
        await landed(remembered)
        assert source.asked == ["a", "a"]
        assert await remembered.get("a") == "2"
        source.answers["a"] = "3"
        clock.now += HARD
        assert await together(*(remembered.get("a") for _ in range(64))) == ["3"] * 64
        assert source.asked == ["a", "a", "a"]

    asyncio.run(story())


def test_an_answer_is_as_old_as_its_question(remembered: Remembered[str, str], source: Source, clock: Clock) -> None:
    async def story() -> None:
        source.answers["a"] = "1"
        source.may_answer.clear()
        first = asyncio.create_task(remembered.get("a"))
        await asked(source, 1)
        clock.now += HARD
        source.may_answer.set()
        assert await first == "1"
        source.answers["a"] = "2"
        assert await remembered.get("a") == "2"

    asyncio.run(story())


def test_a_refusal_ends_what_was_known(remembered: Remembered[str, str], source: Source, clock: Clock) -> None:
    async def story() -> None:
        source.answers["a"] = "1"
        assert await remembered.get("a") == "1"
        source.answers["a"] = NotFound("dropped")
        clock.now += SOFT
        assert await remembered.get("a") == "1"
        await landed(remembered)
        with pytest.raises(NotFound, match="dropped"):
            await remembered.get("a")

    asyncio.run(story())


def test_a_source_that_is_away_ends_nothing_before_its_time(
    remembered: Remembered[str, str], source: Source, clock: Clock
) -> None:
    async def story() -> None:
        source.answers["a"] = "1"
        assert await remembered.get("a") == "1"
        source.answers["a"] = Unavailable("away")
        clock.now += SOFT
        for _ in range(2):
            assert await remembered.get("a") == "1"
            await landed(remembered)
        clock.now += HARD - SOFT
        with pytest.raises(Unavailable):
            await remembered.get("a")
        source.answers["a"] = "2"
        assert await remembered.get("a") == "2"

    asyncio.run(story())


def test_a_miss_from_before_the_call_is_asked_again(remembered: Remembered[str, str], source: Source) -> None:
    async def story() -> None:
        source.may_answer.clear()
        early = asyncio.create_task(remembered.get("a"))
        await asked(source, 1)
        source.answers["a"] = "made meanwhile"
        late = asyncio.gather(*(remembered.get("a") for _ in range(64)))
        await asyncio.sleep(0)
        source.may_answer.set()
        with pytest.raises(NotFound):
            await early
        assert await late == ["made meanwhile"] * 64
        assert source.asked == ["a", "a"]

    asyncio.run(story())


def test_a_caller_who_leaves_takes_nobody_along(remembered: Remembered[str, str], source: Source) -> None:
    async def story() -> None:
        source.answers["a"] = "1"
        source.may_answer.clear()
        first, second = (asyncio.create_task(remembered.get("a")) for _ in range(2))
        await asked(source, 1)
        first.cancel()
        source.may_answer.set()
        assert await second == "1"
        assert source.asked == ["a"]

    asyncio.run(story())


def test_a_loop_that_ends_in_between(remembered: Remembered[str, str], source: Source, clock: Clock) -> None:
    source.answers["a"] = "1"
    assert asyncio.run(remembered.get("a")) == "1"
    clock.now += SOFT
    assert asyncio.run(remembered.get("a")) == "1"
    clock.now += HARD
    assert asyncio.run(remembered.get("a")) == "1"


def test_the_memory_is_bounded(
    remembered: Remembered[str, str], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remember, "MAX_KEYS", 2)
    source.answers = {key: key for key in "abcd"}
    for key in "abcd":
        assert asyncio.run(remembered.get(key)) == key
    assert len(remembered) <= 2
