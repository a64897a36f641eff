"""The access log: a line of JSON for each completion and each request, without prompts, answers or keys.

Lines go out in batches by a thread of their own. Many processes append to one file, so it is opened for each batch, and
turned under a lock.
"""

import json
import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from filelock import FileLock

from luthier.platform.settings import Settings

log = logging.getLogger(__name__)

WRITE_SECONDS = 0.5
MAX_BYTES, MAX_OLD = 64 << 20, 4
"""Of a file, and files that are kept beside it: access.jsonl.1 is the youngest."""
MAX_WAITING = 100_000
"""Lines; while the disk takes none, the oldest are dropped."""
CLIENT_GONE = 499
"""Status of a request whose client left, as HAProxy and nginx have it."""

Line = dict[str, Any]


class AccessLog:
    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._max_bytes = file, max_bytes
        self._lock = FileLock(f"{file}.lock")
        self._lines: deque[tuple[float, Line]] = deque(maxlen=MAX_WAITING)
        self._wake = threading.Event()

    def start(self) -> None:
        """From here on it writes by itself; what comes before waits."""
        threading.Thread(target=self._write_forever, daemon=True).start()

    def add(self, line: Line) -> None:
        """The time is put to it. What is None is left out."""
        self._lines.append((time.time(), line))
        if not self._wake.is_set():
            self._wake.set()

    def write(self) -> None:
        """All lines so far, in one piece, so that those of other processes stay whole."""
        if self._is_full():
            self._turn()
        text = "".join(_text(*self._lines.popleft()) for _ in range(len(self._lines)))
        handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, text.encode("ascii"))
        finally:
            os.close(handle)

    def _turn(self) -> None:
        """Old files move up by one; the oldest goes."""
        with self._lock:
            if not self._is_full():
                return  # another process was quicker
            files = [self._file, *(self._file.with_name(f"{self._file.name}.{age}") for age in range(1, MAX_OLD + 1))]
            for younger, older in reversed(list(pairwise(files))):
                if younger.exists():
                    younger.replace(older)

    def _is_full(self) -> bool:
        with suppress(FileNotFoundError):
            return self._file.stat().st_size >= self._max_bytes
        return False

    def _write_forever(self) -> None:
        is_failing = False
        while True:
            self._wake.wait()
            time.sleep(WRITE_SECONDS)
            self._wake.clear()
            try:
                self.write()
                is_failing = False
            except OSError as error:
                if not is_failing:
                    log.warning("access log: lines are lost until %s can be written: %s", self._file, error)
                is_failing = True


def open_access_log(settings: Settings) -> AccessLog | None:
    """The log of the home, being written; None where it is switched off."""
    if not settings.access_log:
        return None
    access_log = AccessLog(settings.home / "logs" / "access.jsonl")
    access_log.start()
    return access_log


def _text(seconds: float, line: Line) -> str:
    told = {name: value for name, value in line.items() if value is not None}
    when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": when, **told}, separators=(",", ":")) + "\n"
