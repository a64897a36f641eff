"""Usage on its way to the ledger: on disk first, then in batches to the registry, dropped by none.

A record that was sent but not yet crossed out is sent again after a crash; the ledger's key makes that harmless.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from luthier.errors import LuthierError
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
        self._lock = threading.Lock()
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
        with self._lock:
            batch = self._waiting[:MAX_BATCH]
        if not batch:
            return
        self._append(batch)
        with self._lock:
            del self._waiting[: len(batch)]
            self._file.write_text("".join(record.model_dump_json() + "\n" for record in self._waiting))

    def _flush_forever(self) -> None:
        while True:
            self._wake.wait(FLUSH_SECONDS if self._waiting else None)
            self._wake.clear()
            try:
                self.flush()
            except LuthierError as error:  # the registry is away: the records wait on disk, the next round sends them
                log.warning("usage not flushed yet: %s", error)
                threading.Event().wait(FLUSH_SECONDS)

    def _take_over(self) -> None:
        for left in self._folder.glob("*.jsonl"):
            if left == self._file or not _is_alive(int(left.stem)):
                records = [
                    UsageRecord.model_validate_json(line)
                    for line in left.read_text().splitlines()
                    if line.endswith("}")
                ]
                for record in records:
                    self.settle(record)
                if left != self._file:
                    left.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
