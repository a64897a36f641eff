"""When keys were last used, told to the registry in batches, beside the requests."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from luthier.platform.jobs import now_ms
from luthier.serve.threads import REGISTRY

log = logging.getLogger(__name__)

EACH_SECONDS = 60.0
"""A door tells of one key at most so often: what is shown may be so much too old."""
GATHER_SECONDS = 1.0
MAX_KEYS = 10_000


class LastUse:
    """Belongs to one event loop."""

    def __init__(
        self, tell: Callable[[Mapping[str, int]], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` may block: it runs in a thread."""
        self._tell, self._clock = tell, clock
        self._told: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def note(self, key_id: str) -> None:
        """The key was used now."""
        now = self._clock()
        if now - self._told.get(key_id, -EACH_SECONDS) < EACH_SECONDS:
            return
        if len(self._told) >= MAX_KEYS:
            self._told.clear()
        self._told[key_id] = now
        self._waiting[key_id] = now_ms()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            times, self._waiting = self._waiting, {}
            try:
                await REGISTRY.run(self._tell, times)
            except Exception as error:  # whatever it is, the next use of a key tells it again
                log.warning("the last use of %d keys was not kept: %s", len(times), error)
                for key_id in times:
                    self._told.pop(key_id, None)
