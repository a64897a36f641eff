"""How work that nobody waits for at a socket meets an engine that is busy: it comes again when it is told to."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from luthier.errors import LuthierError, Overloaded

Answer = TypeVar("Answer")


async def patiently(
    call: Callable[[], Awaitable[Answer]], seconds: float, when: type[LuthierError] = Overloaded
) -> Answer:
    """What the call gives, tried again while the engine has no place; after so long that error goes out."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except when as error:
            if error.retry_after is None:  # it never will
                raise
            # Half the time and more, so that those who were refused together do not come together.
            pause = error.retry_after * random.uniform(0.5, 1.0)
            if time.monotonic() + pause > deadline:
                raise
            await asyncio.sleep(pause)
