"""The proof of an adapter, where it cannot be made."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any, cast

import pytest

from luthier.errors import Unavailable
from luthier.platform.data.prompts import Prompts
from luthier.platform.models import ModelVersion
from luthier.serve.adapters.proof import MAX_KNOWN, KnownBase, prove
from tests.factories import ADMIN

TOLD = {"model": "M", "version": 1, "job_id": "ft_1", "base_model": "tiny", "rank": 8, "owner": ADMIN.user}
VERSION = ModelVersion(number=1, path="/none", sha256="0" * 64, created_on=1, **TOLD)


class Dead:
    """An engine that has stopped; any text is one token."""

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        raise Unavailable("The engine stopped.")

    def encode(self, text: str) -> list[int]:
        return [1]


def test_two_faults_at_once_are_one_to_whoever_asks() -> None:
    unheard: list[dict[str, Any]] = []

    async def reading() -> None:
        return None

    async def place() -> str | None:
        for _ in range(10):  # turns, in which the base model is asked in vain
            await asyncio.sleep(0)
        raise OSError("the disk is gone")

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context))
        with pytest.raises(OSError, match="the disk is gone"):
            await prove(Dead(), cast(Prompts, Dead()), VERSION, reading(), place)
        gc.collect()

    asyncio.run(scene())
    assert unheard == []


class Counting:
    """An engine that says how often it was asked."""

    def __init__(self) -> None:
        self.num_asked = 0

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        self.num_asked += 1
        return [-1.0 * each for each in ids[start:]]


def test_the_base_model_is_asked_once_for_each_text() -> None:
    engine = Counting()
    known = KnownBase(engine)

    def scores(ids: list[int], start: int, adapter: ModelVersion | None = None) -> list[float]:
        return asyncio.run(known.score(ids, start, adapter))

    assert scores([1, 2, 3], 1) == scores([1, 2, 3], 1) == [-2.0, -3.0]
    assert engine.num_asked == 1
    assert scores([1, 2, 3], 2) == [-3.0]
    for _ in range(2):
        assert scores([1, 2, 3], 1, VERSION) == [-2.0, -3.0]
    assert engine.num_asked == 4
    for number in range(MAX_KNOWN):
        scores([number], 0)
    scores([1, 2, 3], 1)
    assert engine.num_asked == 4 + MAX_KNOWN + 1, "the oldest was forgotten"
