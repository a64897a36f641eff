"""Usage on its way to the ledger: on disk first, then in batches to the registry, dropped by none.

A file is written by one process, sent as it stands and then removed, never rewritten. Killed in between, its records
are sent again by whoever takes it over; the ledger's key makes that harmless.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from luthier.errors import Conflict, Unavailable
from luthier.platform.metering import UsageRecord
from luthier.platform.settled import EngineCounts, SettledFiles, owner, read_spool

log = logging.getLogger(__name__)

FLUSH_SECONDS, MOST_SECONDS = 0.2, 5.0
"""Between two flushes; while the ledger is away twice as long each time."""
MAX_BATCH = 1000


class UsageSpool:
    """Files of JSON lines, one open at a time; what a dead replica left behind is taken over by the next."""

    def __init__(
        self,
        folder: Path,
        append: Callable[[list[UsageRecord]], int],
        max_bytes: int = 64 << 20,
        engine: Callable[[], EngineCounts | None] = lambda: None,
        inherited: Callable[[], None] | None = None,
    ) -> None:
        """`max_bytes`: what may wait for the ledger; `engine` tells what this process's engine has counted.

        `inherited` is told once all is there that was left behind.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._append, self._max_bytes, self._engine = folder, append, max_bytes, engine
        self._settled = SettledFiles(folder)
        self._settled.begin()
        self._lock, self._flushing, self._wake = threading.Lock(), threading.Lock(), threading.Event()
        own = [number for pid, number in map(owner, folder.glob("*.jsonl")) if pid == os.getpid()]
        last = max([*own, self._settled.of(os.getpid()).upto, 0])
        self._file = _File(folder / f"{os.getpid()}-{last + 1}.jsonl")
        self._closed: deque[_Closed] = deque(self._left_behind())
        self._num_bytes = sum(closed.num_bytes for closed in self._closed)
        self._inherited = inherited

    def start(self) -> None:
        """From here on it flushes by itself."""
        self._wake.set()
        threading.Thread(target=self._flush_forever, daemon=True).start()

    def check(self) -> None:
        """Unavailable while more waits than may: what is not metered is not done."""
        if self._num_bytes >= self._max_bytes:
            raise Unavailable("The ledger has been away for so long that no more can be metered. Try again later.")

    def settle(self, record: UsageRecord) -> None:
        """Keeps the record on disk; it reaches the ledger within moments."""
        with self._lock:
            self._num_bytes += self._file.write(record)
        self._wake.set()

    def flush(self) -> None:
        """Sends what waits; on failure everything stays where it is."""
        with self._flushing:
            self._send_closed()
            if self._inherited:
                self._inherited()
                self._inherited = None
            if self._file.records:
                self._turn()
                self._send_closed()

    def _turn(self) -> None:
        """Goes on in a new file."""
        fresh = _File(_next(self._file.path))
        with self._lock:
            full, self._file = self._file, fresh
        full.close()
        self._closed.append(_Closed(full.path, full.records, full.num_bytes))

    def _send_closed(self) -> None:
        while self._closed:
            file, records, num_bytes = self._closed[0]
            is_own = owner(file)[0] == os.getpid()
            self._settled.count(file, records, self._engine() if is_own else None)
            while records:
                self._send(records[:MAX_BATCH])
                del records[:MAX_BATCH]
            file.unlink(missing_ok=True)
            self._closed.popleft()
            with self._lock:
                self._num_bytes -= num_bytes

    def _send(self, batch: list[UsageRecord]) -> None:
        try:
            self._append(batch)
        except Conflict:  # the ledger has one of them with other content: that one alone is refused
            for record in batch:
                try:
                    self._append([record])
                except Conflict as error:
                    log.error("usage refused: %s", error)

    def _flush_forever(self) -> None:
        num_failed = 0
        while True:
            self._wake.wait()
            self._wake.clear()
            time.sleep(min(FLUSH_SECONDS * 2 ** min(num_failed, 10), MOST_SECONDS))
            num_failed = self._tried(num_failed)

    def _tried(self, num_failed: int) -> int:
        """Flushes; how often that has failed without a success."""
        try:
            self.flush()
        except Exception as error:  # whatever it is, the records wait on disk and the next round sends them
            self._wake.set()
            if not num_failed:
                log.warning("usage waits in %s until the ledger answers: %s", self._folder, error)
            return num_failed + 1
        if num_failed:
            log.warning("usage in %s reaches the ledger again", self._folder)
        return 0

    def _left_behind(self) -> list["_Closed"]:
        """The files of processes that are gone. Another heir may be quicker: then a file is there no more."""
        found = []
        for file in sorted(self._folder.glob("*.jsonl"), key=owner):
            with suppress(FileNotFoundError):
                if not is_written(file):
                    found.append(_Closed(file, read_spool(file), file.stat().st_size))
        return found


class _Closed(NamedTuple):
    """A file that nobody writes any more."""

    path: Path
    records: list[UsageRecord]
    num_bytes: int


class _File:
    """A file that is being written, and its records."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[UsageRecord] = []
        self.num_bytes = 0
        self._handle = path.open("xb")

    def write(self, record: UsageRecord) -> int:
        """Bytes written."""
        self.records.append(record)
        written = self._handle.write(record.model_dump_json().encode() + b"\n")
        self._handle.flush()
        self.num_bytes += written
        return written

    def close(self) -> None:
        self._handle.close()


def _next(file: Path) -> Path:
    pid, number = owner(file)
    return file.with_name(f"{pid}-{number + 1}.jsonl")


def is_written(file: Path) -> bool:
    """Whether its process lives. Process ids come again: one that began after the last line is another process."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(owner(file)[0]).create_time() <= file.stat().st_mtime)
    return False
