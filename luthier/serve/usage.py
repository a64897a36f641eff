"""Usage on its way to the ledger: on disk first, then in batches to the registry, dropped by none.

A record that was sent but not yet crossed out is sent again after a crash; the ledger's key makes that harmless.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from luthier.errors import Conflict
from luthier.platform.metering import UsageRecord

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
MAX_BATCH = 1000


class UsageSpool:
    """One file of JSON lines for each replica; what a dead replica left behind is taken over by the next."""

    def __init__(self, folder: Path, append: Callable[[list[UsageRecord]], int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._append = folder, append
        self._file = folder / f"{os.getpid()}.jsonl"
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._waiting: list[UsageRecord] = []
        self._wake = threading.Event()
        self._take_over()
        threading.Thread(target=self._flush_forever, daemon=True).start()

    def settle(self, record: UsageRecord) -> None:
        """Keeps the record on disk; it reaches the ledger within moments."""
        with self._lock:
            with self._file.open("a") as file:
                file.write(record.model_dump_json() + "\n")
            self._waiting.append(record)
        self._wake.set()

    def flush(self) -> None:
        """Sends what waits; on failure everything stays where it is."""
        with self._flushing:
            with self._lock:
                batch = self._waiting[:MAX_BATCH]
            if not batch:
                return
            self._send(batch)
            with self._lock:
                del self._waiting[: len(batch)]
                self._rewrite()

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
        while True:
            self._wake.wait(FLUSH_SECONDS if self._waiting else None)
            self._wake.clear()
            try:
                self.flush()
            except Exception as error:  # whatever it is, the records wait on disk and the next round sends them
                log.warning("usage not flushed yet: %s", error)
                threading.Event().wait(FLUSH_SECONDS)

    def _take_over(self) -> None:
        """What dead processes left, and one of this very id: ids come again."""
        left = [file for file in self._folder.glob("*.jsonl") if file == self._file or not _is_alive(int(file.stem))]
        self._waiting = [record for file in left for record in _read(file)]
        self._rewrite()
        for file in left:
            if file != self._file:
                file.unlink()

    def _rewrite(self) -> None:
        """The file with what waits, whole or as it was."""
        part = self._file.with_suffix(".part")
        part.write_text("".join(record.model_dump_json() + "\n" for record in self._waiting))
        os.replace(part, self._file)


def _read(file: Path) -> list[UsageRecord]:
    """Whole lines only: a process that dies while it writes leaves half of the last one."""
    *lines, _torn = file.read_text().split("\n")
    return [UsageRecord.model_validate_json(line) for line in lines]


def _is_alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid))
