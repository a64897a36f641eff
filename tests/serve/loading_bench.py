"""A loader on an engine that keeps adapters in a set, with storage and a node's disk."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import AdapterRefused, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.settings import Settings
from luthier.serve.adapters.disk import LocalDisk
from luthier.serve.adapters.loading import Loader, Surroundings
from luthier.serve.adapters.turns import Turns
from tests.factories import make_version

SIZE = SLOTS = 2


class Engine:
    """Workers that keep adapters in a set; it answers with an adapter's number, and 0 without one."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.num_begun = self.num_taken = 0
        self.coming: set[int] = set()
        self.num_asking = self.most_asking = self.num_asked = 0
        """What has been read, at once."""
        self.faults: dict[int, str] = {}
        self.unread: dict[int, str] = {}
        """What its worker cannot open just now."""
        self.is_dead = self.is_deaf = self.is_lost = self.is_busy = False
        """Deaf: it answers as if there were no adapters. Lost: with one it answers no numbers."""
        self.readable = asyncio.Event()
        self.readable.set()

    async def call(self, method: str, *args: Any) -> list[Any]:
        self.num_asking += method == "take_adapters"
        self.num_asked += method == "take_adapters"
        self.most_asking = max(self.most_asking, self.num_asking)
        await asyncio.sleep(60 if self.is_busy else 0)
        self.num_asking -= method == "take_adapters"
        if self.is_dead:
            raise Unavailable("The engine stopped.")
        return [getattr(self, method)(*args)]

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        assert adapter is None or adapter.number in self.held
        tuned = math.nan if self.is_lost else float(adapter.number if adapter else 0)
        return [0.0 if adapter is None or self.is_deaf else tuned] * (len(ids) - start)

    def begin_adapter(self, number: int, name: str, path: str, is_far: bool) -> None:
        self.num_begun += 1
        self.coming.add(number)

    def take_adapters(self, numbers: list[int]) -> list[tuple[int, tuple[str, bool] | None]]:
        if not self.readable.is_set():
            return []
        return [(number, self._take(number)) for number in numbers if number in self.coming]

    def _take(self, number: int) -> tuple[str, bool] | None:
        self.num_taken += 1
        self.coming.remove(number)
        if fault := self.unread.get(number) or self.faults.get(number):
            return fault, number in self.unread
        self.held.add(number)
        assert len(self.held) <= SIZE
        return None

    def drop_adapter(self, number: int) -> None:
        self.coming.discard(number)
        self.held.discard(number)

    def adapter_places(self) -> list[int]:
        return sorted(self.held)[:1]


class Letters:
    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))


class Bench:
    def __init__(self, settings: Settings, folder: Path) -> None:
        base = load_catalog(settings).get("tiny")
        base = base.model_copy(update={"engine": base.engine.model_copy(update={"max_cpu_loras": SIZE})})
        self._folder, self.disk = folder / "storage", LocalDisk(folder / "disk", "tiny", 1 << 20)
        self.turns = Turns(SLOTS)
        self.engine, self.reports = Engine(), list[tuple[int, ProofState, str]]()
        self.loader = Loader(self.engine, base, Letters(), Surroundings(self.report, self.disk), self.turns)

    def report(self, number: int, proof: Proof) -> None:
        self.reports.append((number, proof.state, proof.reason))

    def version(self, number: int) -> ModelVersion:
        return make_version(number, self._folder, str(number))

    async def ask(self, version: ModelVersion, seconds: float = 0.0) -> None:
        turn = await self.loader.hold(version) or await self.turns.take(version.number, 0, time.monotonic())
        assert version.number in self.engine.held
        await asyncio.sleep(seconds)
        assert version.number in self.engine.held
        turn()
        self.loader.release(version)

    async def refusal(self, version: ModelVersion) -> str:
        with pytest.raises(AdapterRefused) as caught:
            await self.loader.hold(version)
        return caught.value.message

    async def is_not_given(self, version: ModelVersion) -> None:
        """It is not in the engine, and nothing is known of it."""
        num_refused = (await self.loader.stats("r")).refused
        with pytest.raises(Unavailable, match=f"Storage does not give the files of model {version.model} just now"):
            await self.loader.hold(version)
        assert version.number not in self.engine.held
        assert (await self.loader.stats("r")).refused == num_refused
        assert version.number not in {number for number, _, _ in self.reports}

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0.001)


def run(settings: Settings, folder: Path, story: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def told() -> None:
        await story(Bench(settings, folder))

    asyncio.run(told())
