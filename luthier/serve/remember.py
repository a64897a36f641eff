"""Answers that many wait for are asked once; and remembered for a moment."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, MutableMapping
from contextvars import Context
from typing import Any, Generic, TypeVar

from luthier.errors import LuthierError, Unavailable

MAX_KEYS = 10_000

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def beside(work: Coroutine[Any, Any, Value]) -> asyncio.Task[Value]:
    """A task that has nothing of the request that happens to begin it, and whose error nobody need wait for."""
    task = asyncio.create_task(work, context=Context())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


class Flights(Generic[Key, Value]):
    """Questions on their way, one at a time for each key. Belongs to one event loop."""

    def __init__(self, fetch: Callable[[Key], Coroutine[Any, Any, Value]], known: MutableMapping[Key, Any]) -> None:
        """A refusal ends what was `known`, unless it says that nothing could be heard."""
        self._fetch, self._known = fetch, known
        self._flights: dict[Key, asyncio.Task[Value]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def ask(self, key: Key) -> Value:
        joined = self._flights.get(key)
        try:
            return await asyncio.shield(joined or self.start(key))
        except LuthierError:
            if joined is None:
                raise
        # The refusal answers a question from before this call: what came about in between must be found.
        return await asyncio.shield(self.start(key))

    def start(self, key: Key) -> asyncio.Task[Value]:
        """Or the one that has started."""
        if key not in self._flights:
            flight = self._flights[key] = beside(self._fetch(key))
            flight.add_done_callback(lambda done: self._land(key, done))
        return self._flights[key]

    def _land(self, key: Key, flight: asyncio.Task[Value]) -> None:
        del self._flights[key]
        error = None if flight.cancelled() else flight.exception()
        if isinstance(error, LuthierError) and not isinstance(error, Unavailable):
            self._known.pop(key, None)


class Remembered(Generic[Key, Value]):
    """What `ask` answers for a key. A refusal is never remembered. Belongs to one event loop.

    An answer younger than `soft` seconds is given at once; up to `hard` seconds too, while a newer one is fetched;
    an older one never.
    """

    def __init__(
        self,
        ask: Callable[[Key], Awaitable[Value]],
        soft: float,
        hard: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._soft, self._hard, self._clock = ask, soft, hard, clock
        self._known: dict[Key, tuple[float, Value]] = {}
        self._flights = Flights(self._fetch, self._known)

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, key: Key) -> Value:
        at, value = self._known.get(key, (None, None))
        age = self._hard if at is None else self._clock() - at
        if age >= self._hard:
            return await self._flights.ask(key)
        if age >= self._soft:
            self._flights.start(key)
        return value  # type: ignore[return-value] # it was known

    async def _fetch(self, key: Key) -> Value:
        asked_at = self._clock()
        value = await self._ask(key)
        if len(self._known) >= MAX_KEYS:
            self._known.clear()
        self._known[key] = (asked_at, value)
        return value
