"""Last uses of keys: in batches, each key at most once a minute, and none lost to a registry that is away."""

import asyncio
from collections.abc import Mapping

import pytest

from luthier.errors import Unavailable
from luthier.serve import last_use
from luthier.serve.last_use import EACH_SECONDS, LastUse
from tests.fakes import Clock
from tests.waiting import until


class Registry:
    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.is_away = False
        self.num_refused = 0

    def used(self, times: Mapping[str, int]) -> None:
        if self.is_away:
            self.num_refused += 1
            raise Unavailable("The registry does not answer.")
        self.told.append(sorted(times))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_use, "GATHER_SECONDS", 0.02)


def test_many_uses_are_one_message_a_minute() -> None:
    registry, clock = Registry(), Clock()
    seen = LastUse(registry.used, clock)

    async def story() -> None:
        for _ in range(1000):
            for key in "abc":
                seen.note(key)
        await until(lambda: len(registry.told) == 1)
        clock.now += EACH_SECONDS * 0.99
        seen.note("a")
        seen.note("d")
        await until(lambda: len(registry.told) == 2)
        clock.now += EACH_SECONDS * 0.01
        seen.note("a")
        await until(lambda: len(registry.told) == 3)

    asyncio.run(story())
    assert registry.told == [["a", "b", "c"], ["d"], ["a"]]


def test_what_was_not_kept_is_told_at_the_next_use() -> None:
    registry = Registry()
    seen = LastUse(registry.used, Clock())

    async def story() -> None:
        registry.is_away = True
        seen.note("a")
        await until(lambda: registry.num_refused)
        registry.is_away = False
        await until(lambda: seen.note("a") or registry.told)

    asyncio.run(story())
    assert registry.told == [["a"]]
