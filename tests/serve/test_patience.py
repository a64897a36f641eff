"""Work that waits for a place: it comes again, and not for ever."""

import asyncio
from types import SimpleNamespace

import pytest

from luthier.errors import Overloaded, Unavailable
from luthier.serve import patience
from luthier.serve.patience import patiently


class Engine:
    """Refuses that often."""

    def __init__(self, num_refusals: int) -> None:
        self.num_calls, self._num_refusals = 0, num_refusals

    async def answer(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self._num_refusals:
            raise Overloaded("busy", retry_after=4)
        return "done"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, without sleeping."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(patience, "asyncio", SimpleNamespace(sleep=sleep))
    return slept


def test_it_comes_again_when_it_is_told_to(pauses: list[float]) -> None:
    engine = Engine(3)
    assert asyncio.run(patiently(engine.answer, 60)) == "done"
    assert len(pauses) == 3
    assert all(2 <= pause <= 4 for pause in pauses)


def test_it_gives_up_in_the_end(pauses: list[float]) -> None:
    engine = Engine(3)
    with pytest.raises(Overloaded):
        asyncio.run(patiently(engine.answer, 1))
    assert (engine.num_calls, pauses) == (1, [])


def test_no_other_error_is_tried_again(pauses: list[float]) -> None:
    async def away() -> str:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        asyncio.run(patiently(away, 60))
    assert pauses == []
