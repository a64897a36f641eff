"""Which adapters an engine has in host memory, and who uses them. Knows no engine.

The least recently used makes room; one in use stays, so that the engine never has to read it in the middle of a step.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

PATIENCE_SECONDS = 1.0
"""Who waits longer for room closes the adapter that was brought in first to all who come after."""


class HostMemory:
    """Belongs to one event loop."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._clock = size, clock
        self._users: OrderedDict[int, int] = OrderedDict()
        self._brought: dict[int, None] = {}
        """The same adapters, those brought in first first."""
        self._waiting: list[float] = []
        """Since when, for room."""
        self._num_coming = 0
        self._changed = asyncio.Event()
        self.evictions = 0

    def numbers(self) -> list[int]:
        """The least recently used first."""
        return list(self._users)

    async def take(self, number: int) -> bool:
        """One more user of an adapter, if it is there. Of one that is to make room: when it has gone, or may stay."""
        while self._is_closed(number):
            await self._change()
        if (users := self._users.get(number)) is None:
            return False
        self._users[number] = users + 1
        self._users.move_to_end(number)
        return True

    def give_back(self, number: int) -> None:
        self._users[number] -= 1
        self._changed.set()

    async def room(self) -> int | None:
        """Sets a place aside, for `fill` or `forgo`; the adapter that must go for it. Waits while all are in use."""
        since = self._clock()
        self._waiting.append(since)
        try:
            while len(self._users) + self._num_coming >= self._size:
                idle = next((number for number, users in self._users.items() if users == 0), None)
                if idle is not None:
                    del self._users[idle], self._brought[idle]
                    self.evictions += 1
                    self._num_coming += 1
                    return idle
                await self._change()
            self._num_coming += 1
            return None
        finally:
            self._waiting.remove(since)
            self._changed.set()

    def _is_closed(self, number: int) -> bool:
        if not self._waiting:
            return False
        num_overdue = sum(self._clock() - since > PATIENCE_SECONDS for since in self._waiting)
        return number in islice(self._brought, num_overdue)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def fill(self, number: int, users: int) -> None:
        self._num_coming -= 1
        self._users[number] = users
        self._brought[number] = None
        self._changed.set()

    def forgo(self) -> None:
        self._num_coming -= 1
        self._changed.set()
