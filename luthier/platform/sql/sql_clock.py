"""How long a statement may run."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb


class Clock:
    """The time an engine may still use, counted only while it works."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self.ran_out = False

    @contextmanager
    def running(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        done, started = threading.Event(), time.monotonic()

        def stop() -> None:
            wait = max(self._left, 0.0)
            while not done.wait(wait):  # again and again: an interrupt between two steps is lost
                self.ran_out = True
                cursor.interrupt()
                wait = 0.1

        watcher = threading.Thread(target=stop, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            self._left -= time.monotonic() - started
