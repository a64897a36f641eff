"""Adapters on a node's own disk: the tier between host memory and the storage that all nodes share.

A copy is a folder, named by content and version; where the disk is the storage's own, of hard links. All replicas of
a node share them without a word: a copy has its name only when it is whole, whoever reads it holds a lock that ends
with its process, and what is held never makes room. None is needed: what is gone or does not fit is read from storage.
"""

import asyncio
import errno
import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from luthier.platform.models import ModelVersion
from luthier.platform.settings import MIB
from luthier.platform.storage import num_bytes
from luthier.platform.weights.artifacts import fault_of, put_away
from luthier.serve.threads import ADAPTERS, STORAGE, Answer, Given

log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0
STORAGE_SECONDS = 20.0
"""Storage that has not given an adapter by then is taken to hang."""
PART = ".part"
"""Ends the name of what is on its way in, or out."""
NAME = re.compile(r"([0-9a-f]{64})-(\d+)(\.[0-9a-f]{32}\.part)?")
"""Content and version of a copy. What is called otherwise is not ours, and stays."""


class Copy:
    """Where an adapter's files are to be read, until it is closed."""

    seconds: float | None = None
    """What reading may take."""
    is_far = False

    def __init__(self, path: Path, lock: int | None = None, was_there: bool = False) -> None:
        self.path, self.was_there, self._lock = path, was_there, lock

    async def run(self, call: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        """What reads it, in a thread."""
        return await ADAPTERS.run(call, *args, **kwargs)

    def look_through(self) -> None:
        """In a thread of storage's, before anybody has it."""

    async def fault(self) -> str | None:
        """As `fault_of`."""
        return await self.run(fault_of, self.path)

    def discard(self) -> None:
        """It is not what it should be, whoever reads it. Not one that has taken its place."""
        if self._lock is not None and _is_at(self._lock, self.path):
            put_away(self.path, _part(self.path))

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Original(Copy):
    """Storage's own folder, where no copy can be. It may hang: TimeoutError when reading takes too long."""

    seconds: float = STORAGE_SECONDS
    is_far = True
    _fault: str | None = None

    async def run(self, call: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        async with asyncio.timeout(self.seconds):
            return await STORAGE.run(call, *args, **kwargs)

    def look_through(self) -> None:
        self._fault = fault_of(self.path)

    async def fault(self) -> str | None:
        return self._fault


class LocalDisk:
    """The copies of one base model's adapters. Those of all its base models share the folder and its size."""

    def __init__(self, folder: Path, base_model: str, size: int) -> None:
        """`size` in bytes."""
        self._all, self._own, self.size = folder, folder / base_model, size
        self._sizes: dict[str, int] = {}
        self.evictions = 0
        """By this process."""

    def kept(self, version: ModelVersion) -> Copy | None:
        """The copy that is there."""
        return _kept(self._path(version))

    def take(self, version: ModelVersion) -> Copy:
        """A copy of its folder, made now if there is none; the folder itself where that cannot be."""
        source, path = Path(version.path), self._path(version)
        if kept := _kept(path):
            return kept
        try:
            return self._made(source, path)
        except OSError as error:
            if kept := _kept(path):  # another replica was quicker
                return kept
            log.warning("adapter %s has no copy on this disk: %s", source.name[:12], error)
            return Original(source)

    def used(self, version: ModelVersion) -> None:
        """Until now, in memory."""
        _touch(self._path(version))

    def copies(self) -> dict[int, int]:
        """Bytes of each, by the version's number; the longest unused first."""
        kept = {path: size for path, size in self._found().items() if os.path.dirname(path) == str(self._own)}
        return {_named(Path(path))[1]: kept[path] for path in sorted(kept, key=_last_use)}

    def sweep(self, storage: Path) -> None:
        """Removes what storage has no more, and what others that died left half made. Nothing while storage is away."""
        for path in map(Path, self._folders()):
            gone = storage.is_dir() and not (storage / _named(path)[0]).exists()
            if gone or path.suffix == PART:
                _evict(path)

    async def keep_swept(self, storage: Path) -> None:
        while True:
            try:
                await STORAGE.run(self.sweep, storage)
            except OSError as error:
                log.warning("copies of adapters were not looked through: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    def _path(self, version: ModelVersion) -> Path:
        return self._own / f"{Path(version.path).name}-{version.number}"

    def _made(self, source: Path, path: Path) -> Copy:
        """Whole when it has its name; until then its files have their sizes, so that nobody else takes its room."""
        sizes = {file: file.stat().st_size for file in source.iterdir()}
        part, lock = _part(path), None
        try:
            with self._alone():
                self._make_room(sum(sizes.values()))
                part.mkdir(parents=True)
                lock = _locked(part, fcntl.LOCK_SH)
                for file, size in sizes.items():
                    _take_room(part / file.name, size)
            for file in sizes:
                _bring(file, part / file.name)
            with self._alone():  # who counts finds it under one of its names
                os.rename(part, path)
        except OSError:
            if lock is not None:
                os.close(lock)
            shutil.rmtree(part, ignore_errors=True)
            raise
        _touch(path)
        return Copy(path, lock)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Among all replicas of the node: nobody else counts what is free meanwhile."""
        self._all.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._all, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _make_room(self, needed: int) -> None:
        """The longest unused go. OSError when it is not enough."""
        found = self._found()
        on_their_way = sum(num_bytes(Path(path)) for path in self._folders() if path.endswith(PART))
        over = sum(found.values()) + on_their_way + needed - self.size
        oldest = deque(sorted(found, key=_last_use) if needed <= self.size else ())
        while over > 0 and oldest:
            if _evict(Path(path := oldest.popleft())):
                over -= found[path]
                self.evictions += 1
        if over > 0:
            raise OSError(errno.ENOSPC, f"no room for {needed} bytes")

    def _found(self) -> dict[str, int]:
        """All copies with their bytes. A name is read once: what is behind it never changes."""
        paths = [path for path in self._folders() if not path.endswith(PART)]
        self._sizes = {path: self._sizes.get(path) or num_bytes(Path(path)) for path in paths}
        return self._sizes

    def _folders(self) -> list[str]:
        """As texts: there may be thousands, and a first token waits."""
        return [path for folder in self._all.glob("*/") for path in _copies_in(folder)]


def _copies_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if NAME.fullmatch(entry.name)]
    except OSError:  # another's, or gone
        return []


def _named(copy: Path) -> tuple[str, int]:
    """Its content and its version."""
    content, number = copy.name.partition(".")[0].split("-")
    return content, int(number)


def _kept(path: Path) -> Copy | None:
    """One that is there, used now."""
    if (lock := _locked(path, fcntl.LOCK_SH)) is None:
        return None
    _touch(path)
    return Copy(path, lock, was_there=True)


def _locked(folder: Path, kind: int) -> int | None:
    """A folder's lock, as an open file; None when it is not there, or somebody's lock forbids it."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        if _is_at(lock, folder):
            return lock
    os.close(lock)
    return None


def _is_at(lock: int, folder: Path) -> bool:
    """It may have been renamed since it was opened."""
    try:
        return os.path.samestat(os.fstat(lock), folder.stat())
    except FileNotFoundError:
        return False


def _evict(folder: Path) -> bool:
    """Unless somebody reads it."""
    if (lock := _locked(folder, fcntl.LOCK_EX)) is None:
        return False
    try:
        put_away(folder, _part(folder))
    finally:
        os.close(lock)
    return True


def _part(folder: Path) -> Path:
    """A name beside it that nobody has."""
    return folder.with_name(f"{folder.name.partition('.')[0]}.{uuid.uuid4().hex}{PART}")


def _take_room(file: Path, size: int) -> None:
    with file.open("wb") as room:
        room.truncate(size)


def _bring(file: Path, to: Path) -> None:
    """Into its room; a second name of the same file, if both are on one file system."""
    second = to.with_name(f"{to.name}.second")
    try:
        os.link(file, second)
        os.replace(second, to)
    except OSError:
        with file.open("rb") as source, to.open("r+b") as room:
            shutil.copyfileobj(source, room, MIB)


def _touch(folder: Path) -> None:
    """Used now: the kernel's own clock for it moves in milliseconds."""
    with suppress(OSError):
        os.utime(folder, ns=(time.time_ns(),) * 2)


def _last_use(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0
