"""How long the registry has answered nothing that this process asked, and how long anybody waits for it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from luthier.errors import Unavailable

PATIENCE_SECONDS = 1.5
"""Who is known waits no longer for a registry that is silent."""
NEW_PATIENCE_SECONDS = 5.0
"""Of who is not known."""
LEAST_SECONDS = 0.1
"""Anybody waits so long: it may be back."""

Answer = TypeVar("Answer")


class Silence:
    """Since the first question that has no answer, if none after it has."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        return 0.0 if self._since is None else self._clock() - self._since

    @contextmanager
    def question(self) -> Iterator[None]:
        """Around one that is asked; a refusal is an answer, too."""
        if self._since is None:
            self._since = self._clock()
        try:
            yield
        except Unavailable:
            raise
        except BaseException:
            self._since = None
            raise
        self._since = None

    async def wait(self, flight: asyncio.Future[Answer], seconds: float) -> Answer:
        """What the flight brings; Unavailable where that makes it a silence of so many seconds."""
        done, _ = await asyncio.wait([flight], timeout=max(LEAST_SECONDS, seconds - self.seconds))
        if not done:
            raise away()
        return flight.result()


def away() -> Unavailable:
    return Unavailable("The registry does not answer just now. Try again in a moment.")
