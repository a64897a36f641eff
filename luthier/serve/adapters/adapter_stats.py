"""What a replica tells of its adapters: which are where, how often they were found there, how long loads took."""

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from statistics import median

from luthier.platform.frozen import Frozen

LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of the histogram of loads."""
NUM_TIMES = 256


class Loads(Frozen):
    """From where they began to the proof."""

    count: int
    seconds: float
    """Of all together."""
    buckets: list[int]
    """How many of them took at most so long, for each of LOAD_SECONDS, and how many there were."""
    ms: dict[str, float]
    """p50 and max of the last ones."""


class AdapterStats(Frozen):
    """Of one replica, since it started."""

    base_model: str
    replica: str
    node: str = ""
    """Where it runs, by Ray's id."""
    in_engine: list[int]
    """Numbers of the versions in the slots of the engine's layers, ready for the next step."""
    engine_tells: bool = True
    """False: the engine did not say in time which are in its slots; all else is known without it."""
    in_memory: list[int]
    """In host memory, the least recently used first."""
    on_disk: list[int]
    """Those that the node's disk has copies of, the least recently used first; storage has all."""
    disk_bytes: int
    """Of them."""
    max_in_engine: int
    max_in_memory: int
    max_disk_bytes: int
    """Of copies on the node's disk, other base models' too; 0: it keeps none."""
    hits: int
    """Requests that found their adapter in host memory."""
    misses: int
    """Requests that waited for it to be loaded."""
    loads: dict[str, Loads]
    """By where the files came from: `disk`, found there, or `storage`."""
    evictions: int
    disk_evictions: int
    refused: int


class LoadTimes:
    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=NUM_TIMES)
        self._buckets = [0] * (len(LOAD_SECONDS) + 1)
        self._all = 0.0

    def add(self, seconds: float) -> None:
        self._last.append(seconds)
        self._buckets[bisect_left(LOAD_SECONDS, seconds)] += 1
        self._all += seconds

    def told(self) -> Loads:
        last = list(self._last) or [0.0]
        return Loads(
            count=sum(self._buckets),
            seconds=self._all,
            buckets=list(accumulate(self._buckets)),
            ms={"p50": 1000 * median(last), "max": 1000 * max(last)},
        )
