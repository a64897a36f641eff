"""READ FIRST for batches: claim -> check -> answer line by line -> put together. It runs in the gateway's process.

A line's result is on disk before it is billed, and billed by the registry before it is counted; killed anywhere in
between, the next process finds the results, bills what was not billed yet, and asks for the other lines. So each line
stands in the output once and in the ledger once. The registry takes a batch's reports from one process only.

Lines go to the same engines as live requests, which take those first; and no more of them at once than fill half of
an engine's places, as a place that is taken stays so until the line's end. Each choice of each prompt fills one.
"""

import asyncio
import logging
import shutil
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from luthier.errors import Conflict, Unavailable
from luthier.platform.batches import Batch
from luthier.platform.credits import BATCH_GRACE_MS
from luthier.platform.jobs import now_ms
from luthier.platform.storage import Storage
from luthier.serve.batches.batch_work import BatchWork
from luthier.serve.metering.leases import Leases
from luthier.serve.room import Room
from luthier.serve.services import Services
from luthier.serve.threads import BATCHES, LEASES

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
SWEEP_SECONDS = 60.0
END_SECONDS = 2.0
"""How long a process that ends tries to let its batches go."""
MAX_BATCHES = 8
"""At once in one process: a small one need not wait for the end of a large one."""
MAX_OF_ONE = MAX_BATCHES // 2
"""Of one account's: its lines may wait for their minutes as long as the batch may take."""


class Batching:
    """Works through batches as they come, beside other processes that do the same."""

    def __init__(self, services: Services, clock: Callable[[], int] = now_ms) -> None:
        self._services, self._clock = services, clock
        self._rooms: dict[str, Room] = {}
        holder = f"batches_{uuid.uuid4().hex}"
        self._leases = Leases(services.registry.credits, holder, grace_ms=BATCH_GRACE_MS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    @asynccontextmanager
    async def running(self, _app: object = None) -> AsyncIterator[None]:
        """It works within the block; at its end batches are let go, for whoever comes next."""
        self._loop = asyncio.get_running_loop()
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._loop = None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def wake(self) -> None:
        """There is a new batch. From any thread."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._news.set)

    async def _run(self) -> None:
        places, held = asyncio.Semaphore(MAX_BATCHES), Counter[str]()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep())
            group.create_task(self._leases.keep_renewed())
            while True:
                await places.acquire()
                holder = uuid.uuid4().hex
                self._news.clear()
                if batch := await self._claim(holder, [each for each, num in held.items() if num >= MAX_OF_ONE]):
                    held[batch.account] += 1
                    working = group.create_task(self._work(batch, holder))
                    working.add_done_callback(partial(self._done, batch, held, places))
                else:
                    places.release()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), POLL_SECONDS)

    def _done(self, batch: Batch, held: Counter[str], places: asyncio.Semaphore, _: object) -> None:
        held[batch.account] -= 1
        places.release()
        self._news.set()

    async def _claim(self, holder: str, full: list[str]) -> Batch | None:
        """Of no account that has all it may have here."""
        try:
            return await LEASES.run(self._services.registry.batches.claim, holder, full)
        except Exception:  # whatever it is, the next look may find it gone; a loop that ended would strand all batches
            log.exception("no batch is claimed just now")
            return None

    async def _sweep(self) -> None:
        while True:
            try:
                await BATCHES.run(sweep, self._services)
            except Exception:  # as above
                log.exception("files are not swept just now")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _work(self, batch: Batch, holder: str) -> None:
        """Whatever ends it before its time, the batch can be claimed again: at once, or when its lease is over."""
        try:
            await self._worked(batch, holder)
        except asyncio.CancelledError:
            with suppress(Exception):  # whatever it is, the lease ends by itself
                async with asyncio.timeout(END_SECONDS):
                    await LEASES.run(self._services.registry.batches.release, batch.id, holder)
            raise

    async def _worked(self, batch: Batch, holder: str) -> None:
        try:
            await BatchWork(self._services, self._leases, self._room, batch, holder, self._clock).run()
        except* (Conflict, Unavailable) as group:
            log.warning("batch %s is left for now", batch.id, exc_info=group)
        except* Exception:
            log.exception("batch %s broke off", batch.id)

    def _room(self, base_model: str) -> Room:
        """What one engine is asked at once by the lines of all batches."""
        if base_model not in self._rooms:
            places = self._services.catalog.get(base_model).engine.max_num_seqs
            self._rooms[base_model] = Room(max(1, places // 2))
        return self._rooms[base_model]


def sweep(services: Services) -> None:
    """Removes some of the files whose time is over, and the parts that ended batches were put together from."""
    files, storage = services.registry.files, Storage(services.settings.storage)
    if expired := files.expired():
        for file in expired:
            Path(file.path).unlink(missing_ok=True)
        files.forget([file.id for file in expired])
    if worked_on := [folder.name for folder in storage.batches.glob("*")]:
        for batch_id in services.registry.batches.ended(worked_on):
            shutil.rmtree(storage.batches / batch_id, ignore_errors=True)
