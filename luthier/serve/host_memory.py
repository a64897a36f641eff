"""Which adapters an engine has in host memory, and who uses them. Knows no engine.

The least recently used makes room; one in use stays, so that the engine never has to read it in the middle of a step.
"""

import asyncio
from collections import OrderedDict

from luthier.platform.frozen import Frozen

LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of the histogram of loads."""


class AdapterStats(Frozen):
    """Of one replica, since it started."""

    base_model: str
    replica: str
    in_engine: list[int]
    """Numbers of the versions in the slots of the engine's layers, ready for the next step."""
    engine_tells: bool = True
    """False: the engine did not say in time which are in its slots; all else is known without it."""
    in_memory: list[int]
    """In host memory, the least recently used first; all others are on disk."""
    max_in_engine: int
    max_in_memory: int
    hits: int
    """Requests that found their adapter in host memory."""
    misses: int
    """Requests that waited for it to be loaded."""
    loads: int
    evictions: int
    refused: int
    load_seconds: float
    """Of all loads together: from the disk to the proof."""
    load_buckets: list[int]
    """How many of them took at most so long, for each of LOAD_SECONDS, and how many there were."""
    load_ms: dict[str, float]
    """p50 and max of the last loads."""


class HostMemory:
    """Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._users: OrderedDict[int, int] = OrderedDict()
        self._num_coming = 0
        self._freed = asyncio.Event()
        self.evictions = 0

    def numbers(self) -> list[int]:
        """The least recently used first."""
        return list(self._users)

    def take(self, number: int) -> bool:
        """One more user of an adapter, if it is there."""
        if (users := self._users.get(number)) is None:
            return False
        self._users[number] = users + 1
        self._users.move_to_end(number)
        return True

    def give_back(self, number: int) -> None:
        self._users[number] -= 1
        self._freed.set()

    async def room(self) -> int | None:
        """Sets a place aside, for `fill` or `forgo`; the adapter that must go for it. Waits while all are in use."""
        while True:
            if len(self._users) + self._num_coming < self._size:
                self._num_coming += 1
                return None
            idle = next((number for number, users in self._users.items() if users == 0), None)
            if idle is not None:
                del self._users[idle]
                self._num_coming += 1
                self.evictions += 1
                return idle
            self._freed.clear()
            await self._freed.wait()

    def fill(self, number: int, users: int) -> None:
        self._num_coming -= 1
        self._users[number] = users
        self._freed.set()

    def forgo(self) -> None:
        self._num_coming -= 1
        self._freed.set()
