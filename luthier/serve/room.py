"""Room at an engine for those who ask it for a long time: so many sequences at once, and no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def places(self, num: int) -> AsyncIterator[None]:
        """Holds that many while the block runs, or all where there are fewer. First come, first served."""
        num = min(num, self._size)
        await self._take(num)
        try:
            yield
        finally:
            self._free += num
            self._freed.set()

    async def _take(self, num: int) -> None:
        async with self._turn:  # who wants many is not passed for ever by those who want few
            while self._free < num:
                self._freed.clear()
                await self._freed.wait()
            self._free -= num
