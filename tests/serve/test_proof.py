"""The proof of an adapter, where it cannot be made."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any, cast

import pytest

from luthier.errors import Unavailable
from luthier.platform.data.prompts import Prompts
from luthier.platform.models import ModelVersion
from luthier.serve.adapters.proof import prove
from tests.factories import ADMIN


class Dead:
    """An engine that has stopped; any text is one token."""

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        raise Unavailable("The engine stopped.")

    def encode(self, text: str) -> list[int]:
        return [1]


def test_two_faults_at_once_are_one_to_whoever_asks() -> None:
    told = {"model": "M", "version": 1, "job_id": "ft_1", "base_model": "tiny", "rank": 8, "owner": ADMIN.user}
    version = ModelVersion(number=1, path="/none", sha256="0" * 64, created_on=1, **told)
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
            await prove(Dead(), cast(Prompts, Dead()), version, reading(), place)
        gc.collect()

    asyncio.run(scene())
    assert unheard == []
