"""Which adapters an engine has in host memory, and who uses them. Knows no engine.

The least recently used makes room; one in use stays, so that the engine never has to read it in the middle of a step.
"""

import asyncio
from collections import OrderedDict


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
