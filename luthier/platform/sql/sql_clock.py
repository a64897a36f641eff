"""How long a statement may run: its time, and until nobody waits for it any more."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

LOOK_SECONDS = 0.1


class Clock:
    """The time an engine may still use, counted only while it works."""

    def __init__(self, seconds: float, unwanted: threading.Event) -> None:
        """`unwanted` is set once nobody waits for the statement."""
        self._left, self._unwanted = seconds, unwanted
        self.ran_out = False

    @contextmanager
    def running(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Raises InterruptException where it may not even begin: many short steps are stopped as one long one is."""
        self.ran_out = self._left <= 0
        if self.ran_out or self._unwanted.is_set():
            raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
        done, started = threading.Event(), time.monotonic()

        def stop() -> None:
            while not done.wait(LOOK_SECONDS):
                self.ran_out = time.monotonic() - started > self._left
                if self.ran_out or self._unwanted.is_set():  # again and again: an interrupt between two steps is lost
                    cursor.interrupt()

        watcher = threading.Thread(target=stop, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            self._left -= time.monotonic() - started
