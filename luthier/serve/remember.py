"""Answers of the registry, remembered for a moment, so that many callers at once ask it once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from luthier.errors import LuthierError, Unavailable

MAX_KEYS = 10_000

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """What `ask` answers for a key. A refusal is never remembered, and ends what was. Belongs to one event loop.

    An answer younger than `soft` seconds is given at once; up to `hard` seconds too, while a newer one is fetched;
    an older one never.
    """

    def __init__(
        self,
        ask: Callable[[Key], Value],
        soft: float,
        hard: float,
        clock: Callable[[], float] = time.monotonic,
        still: Callable[[Value], Awaitable[bool]] | None = None,
    ) -> None:
        """`ask` may block: it runs in a thread. `still` says that an old answer would be given again."""
        self._ask, self._soft, self._hard, self._clock, self._still = ask, soft, hard, clock, still
        self._known: dict[Key, tuple[float, Value]] = {}
        self._flights: dict[Key, asyncio.Task[Value]] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, key: Key) -> Value:
        at, value = self._known.get(key, (None, None))
        age = self._hard if at is None else self._clock() - at
        if age < self._soft:
            return value  # type: ignore[return-value] # it was known
        if value is not None and self._still and await self._still(value):
            return value
        joined = self._flights.get(key)
        flight = joined or self._start(key)
        if age < self._hard:
            return value  # type: ignore[return-value]
        try:
            return await asyncio.shield(flight)
        except LuthierError:
            if joined is None:
                raise
        # The refusal answers a question from before this call: what came about in between must be found.
        return await asyncio.shield(self._flights.get(key) or self._start(key))

    def _start(self, key: Key) -> asyncio.Task[Value]:
        flight = asyncio.create_task(self._fetch(key))
        self._flights[key] = flight
        flight.add_done_callback(lambda done: self._land(key, done))
        return flight

    def _land(self, key: Key, flight: asyncio.Task[Value]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # looked at: nobody may be waiting for it

    async def _fetch(self, key: Key) -> Value:
        asked_at = self._clock()
        try:
            value = await asyncio.to_thread(self._ask, key)
        except LuthierError as error:
            if not isinstance(error, Unavailable):
                self._known.pop(key, None)
            raise
        if len(self._known) >= MAX_KEYS:
            self._known.clear()
        self._known[key] = (asked_at, value)
        return value
