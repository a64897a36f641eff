"""Usage on its way to the ledger: on disk first, then in batches to the registry, dropped by none.

A file is written by one process, sent as it stands and then removed, never rewritten. Killed in between, its records
are sent again by whoever takes it over; the ledger's key makes that harmless. What a full disk does not take is sent
out of memory, and once more by its file.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from luthier.errors import AnsweredTwice, Conflict, Unavailable
from luthier.platform.metering import UsageRecord
from luthier.platform.settled import EngineCounts, SettledFiles, owner, read_spool, spool_files
from luthier.serve.metering.living import PROCESS, live, lives

log = logging.getLogger(__name__)

FLUSH_SECONDS, MOST_SECONDS = 0.2, 5.0
"""Between two flushes; while the ledger is away twice as long each time."""
END_SECONDS = 2.0
"""How long a process that ends waits for its last flush."""
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
        repeated: Callable[[list[UsageRecord]], None] = lambda _records: None,
    ) -> None:
        """`max_bytes`: what may wait for the ledger; `engine` tells what this process's engine has counted.

        `inherited` is told once all is there that was left behind; `repeated`, from any thread, of records whose
        requests are billed to other answers, once of each.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._append, self._max_bytes, self._engine = folder, append, max_bytes, engine
        self._settled = SettledFiles(folder)
        self._settled.begin()
        live(folder)
        self._lock, self._flushing, self._wake = threading.Lock(), threading.Lock(), threading.Event()
        own = [number for process, number in map(owner, spool_files(folder)) if process == PROCESS]
        last = max([*own, self._settled.of(PROCESS).upto, 0])
        self._file = _opened(folder / f"{PROCESS}-{last + 1}.jsonl")
        self._closed: deque[_File] = deque(self._left_behind())
        self._num_bytes = sum(closed.num_bytes for closed in self._closed)
        self._inherited, self._repeated = inherited, repeated
        self._fault: OSError | None = None
        """Of the disk; None once it takes what is written."""
        self._sent_early: set[str] = set()
        """Whose records were sent out of memory."""

    def start(self) -> None:
        """From here on it flushes by itself."""
        self._wake.set()
        threading.Thread(target=self._flush_forever, daemon=True).start()

    def check(self) -> None:
        """Unavailable while more waits than may, or the disk takes none: what is not metered is not done."""
        if self._num_bytes >= self._max_bytes:
            raise Unavailable("The ledger has been away for so long that no more can be metered. Try again later.")
        if self._fault:
            raise Unavailable("The engine's disk takes no usage, so no more can be metered. Try again later.")

    def settle(self, record: UsageRecord) -> None:
        """Keeps the record, on disk unless that is at fault; it reaches the ledger within moments."""
        with self._lock:
            self._num_bytes += self._file.add(record)
            with suppress(OSError), self._disk():  # the next flush tries again
                self._file.write()
        self._wake.set()

    def flush(self) -> None:
        """Sends what waits; on failure everything stays where it is."""
        with self._flushing:
            try:
                self._flush()
            except OSError:
                if self._fault:
                    self._send_from_memory()
                raise
            self._sent_early.clear()

    def end(self) -> None:
        """Flushes once more, as long as a process that ends may take; its heir sends what is left on disk."""
        last = threading.Thread(target=self._tried, args=(0,), daemon=True)
        last.start()
        last.join(END_SECONDS)

    def _flush(self) -> None:
        self._write_rest()
        self._send_closed()
        if self._inherited:
            self._inherited()
            self._inherited = None
        if self._file.records:
            self._turn()
            self._send_closed()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Something is written in it. As long as that fails nothing more is let in."""
        try:
            yield
        except OSError as error:
            if not self._fault:
                log.error("usage waits in memory, as %s takes none: %s", self._folder, error)
            self._fault = error
            raise
        if self._fault:
            log.warning("%s takes usage again", self._folder)
        self._fault = None

    def _write_rest(self) -> None:
        with self._lock:
            if self._file.unwritten:
                with self._disk():
                    self._file.write()

    def _turn(self) -> None:
        """Goes on in a new file."""
        with self._disk():
            fresh = _opened(_next(self._file.path))
        with self._lock:
            full, self._file = self._file, fresh
        self._closed.append(full)

    def _send_closed(self) -> None:
        while self._closed:
            file = self._closed[0]
            is_own = owner(file.path)[0] == PROCESS
            with self._disk():
                file.close()
                self._settled.count(file.path, file.records, self._engine() if is_own else None)
            while file.records:
                repeated = self._send(file.records[:MAX_BATCH])
                del file.records[:MAX_BATCH]
                file.repeated += repeated
                if repeated:
                    self._repeated(repeated)
            if file.repeated:
                with self._disk():
                    self._settled.repeat(file.path, file.repeated)
            file.path.unlink(missing_ok=True)
            self._closed.popleft()
            with self._lock:
                self._num_bytes -= file.num_bytes

    def _send_from_memory(self) -> None:
        """All that waits, once. It stays here, to be written, counted and sent as its file when the disk is well."""
        with self._lock:
            held = [record for file in (*self._closed, self._file) for record in file.records]
        waiting = [record for record in held if record.source_id not in self._sent_early]
        for start in range(0, len(waiting), MAX_BATCH):
            batch = waiting[start : start + MAX_BATCH]
            self._send(batch)
            self._sent_early.update(record.source_id for record in batch)

    def _send(self, batch: list[UsageRecord]) -> list[UsageRecord]:
        """Those whose requests are billed to another answer."""
        try:
            self._append(batch)
        except Conflict:  # the ledger has one of them with other content: that one alone is refused
            return [record for record in batch if self._is_repeated(record)]
        return []

    def _is_repeated(self, record: UsageRecord) -> bool:
        try:
            self._append([record])
        except AnsweredTwice as error:
            log.warning("usage is left out: %s", error)
            return True
        except Conflict as error:
            log.error("usage refused: %s", error)
        return False

    def _flush_forever(self) -> None:
        num_failed = 0
        while True:
            self._wake.wait()
            self._wake.clear()
            time.sleep(min(FLUSH_SECONDS * 2 ** min(num_failed, 10), MOST_SECONDS))
            num_failed = self._tried(num_failed)

    def _tried(self, num_failed: int) -> int:
        """Flushes; how often the ledger has failed without a success. While it answers a disk at fault is asked often:
        what comes meanwhile is in memory alone.
        """
        try:
            self.flush()
        except Exception as error:  # whatever it is, the records wait and the next round sends them
            self._wake.set()
            if error is not self._fault:
                if not num_failed:
                    log.warning("usage waits in %s until disk and ledger take it: %s", self._folder, error)
                return num_failed + 1
        if num_failed:
            log.warning("usage in %s waits no more", self._folder)
        return 0

    def _left_behind(self) -> list["_File"]:
        """The files of processes that are gone. Another heir may be quicker: then a file is there no more."""
        found = []
        for file in spool_files(self._folder):
            with suppress(FileNotFoundError):
                if not is_written(file):
                    found.append(_File(file, None, read_spool(file), num_bytes=file.stat().st_size))
        return found


@dataclass
class _File:
    """A file and its records: what is on disk is the beginning of what was added."""

    path: Path
    handle: FileIO | None
    """None when nobody writes it any more."""
    records: list[UsageRecord] = field(default_factory=list)
    repeated: list[UsageRecord] = field(default_factory=list)
    """Those that were sent, and whose requests are billed to another answer."""
    num_bytes: int = 0
    unwritten: bytearray = field(default_factory=bytearray)

    def add(self, record: UsageRecord) -> int:
        """Bytes that are to be written."""
        line = record.model_dump_json().encode() + b"\n"
        self.records.append(record)
        self.unwritten += line
        self.num_bytes += len(line)
        return len(line)

    def write(self) -> None:
        while self.unwritten and self.handle:
            del self.unwritten[: self.handle.write(self.unwritten)]

    def close(self) -> None:
        """Once it is whole."""
        self.write()
        if self.handle:
            self.handle.close()
            self.handle = None


def _opened(file: Path) -> _File:
    return _File(file, FileIO(file, "xb"))


def _next(file: Path) -> Path:
    process, number = owner(file)
    return file.with_name(f"{process}-{number + 1}.jsonl")


def is_written(file: Path) -> bool:
    """Whether its process lives."""
    return lives(file.parent, owner(file)[0])
