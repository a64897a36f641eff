"""How work that nobody waits for at a socket meets an engine that is busy: it comes again when it is told to."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from luthier.errors import Overloaded

Answer = TypeVar("Answer")


async def patiently(call: Callable[[], Awaitable[Answer]], seconds: float) -> Answer:
    """What the call gives, tried again while the engine has no place; after so long Overloaded goes out."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await call()
        except Overloaded as error:
            # Half the time and more, so that those who were refused together do not come together.
            pause = (error.retry_after or 1) * random.uniform(0.5, 1.0)
            if time.monotonic() + pause > deadline:
                raise
            await asyncio.sleep(pause)
