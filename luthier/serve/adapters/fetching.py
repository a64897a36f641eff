"""Adapters' files for who reads them: from the node's disk, or from storage, which may hang.

Then it keeps its own threads, and who asks for what it has is told to come again. One fetch a version goes on.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from luthier.platform.models import ModelVersion
from luthier.serve.adapters.disk import Copy, LocalDisk, Original
from luthier.serve.remember import beside
from luthier.serve.threads import ADAPTERS, STORAGE


@dataclass
class Fetch:
    """From storage, for one at a time who waits."""

    task: asyncio.Task[Copy]
    until: float
    """It is taken to hang."""
    is_awaited: bool = False


class Fetches:
    """Belongs to one event loop."""

    def __init__(self, disk: LocalDisk | None) -> None:
        self._disk = disk
        self._coming: dict[int, Fetch] = {}

    async def copy(self, version: ModelVersion) -> Copy:
        """Its files on this node's disk, if it may keep any. TimeoutError when storage hangs; OSError as `fault_of`."""
        if self._disk and (kept := await ADAPTERS.run(self._disk.kept, version)):
            return kept
        fetch = self._coming.get(version.number) or self._begin(version)
        fetch.is_awaited = True
        try:
            await asyncio.wait([fetch.task], timeout=max(0.0, fetch.until - time.monotonic()))
        finally:
            fetch.is_awaited = False
        if not fetch.task.done():
            raise _hangs()
        return fetch.task.result()

    def _begin(self, version: ModelVersion) -> Fetch:
        now = time.monotonic()
        if sum(fetch.until < now for fetch in self._coming.values()) >= STORAGE.num:
            raise _hangs()
        fetch = self._coming[version.number] = Fetch(beside(self._fetch(version)), now + Original.seconds)
        return fetch

    async def _fetch(self, version: ModelVersion) -> Copy:
        try:
            copy = await STORAGE.run(self._bring, version)
        finally:
            fetch = self._coming.pop(version.number)
        if not fetch.is_awaited:
            copy.close()
        return copy

    def _bring(self, version: ModelVersion) -> Copy:
        copy = self._disk.take(version) if self._disk else Original(Path(version.path))
        copy.look_through()
        return copy


def _hangs() -> TimeoutError:
    return TimeoutError("it has not answered in time")
