"""The soak's look at the server's processes: memory and open files by role, and how fast they rise with the acts.

Memory is what a process has taken itself: pages of libraries come and go as the machine has room.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, linear_regression
from typing import NamedTuple

import psutil

from benchmarks.processes import marked

LOOK_SECONDS = 3.0
ROLES = {
    "VLLM::EngineCore": "engines",
    "ServeReplica:gateway": "gateway",
    "ServeReplica:bench": "replicas",
    "RegistryActor": "registry",
    "LongReader": "reader",
    "haproxy -": "HAProxy",
}
"""By a part of the title."""
STORE = "store"
"""Its files' sizes, among the roles."""
WARM_SHARE = 0.25
"""Of the acts: caches fill meanwhile."""
MANY = 10_000
"""Acts that a rise is told for."""


class Look(NamedTuple):
    """At the processes of one role, after so many acts."""

    acts: int
    mib: float
    files: int


@dataclass
class Watch:
    """Looks at the server's processes now and then."""

    mark: str
    home: Path
    num_acts: Callable[[], int]
    looks: dict[str, list[Look]] = field(default_factory=lambda: defaultdict(list))
    at_rest: dict[str, list[Look]] = field(default_factory=lambda: defaultdict(list))
    """Before all acts and after them: the connections of acts are not in it."""

    def look(self) -> None:
        for role, seen in self._all():
            self.looks[role].append(seen)

    def rest(self) -> None:
        for role, seen in self._all():
            self.at_rest[role].append(seen)

    def _all(self) -> Iterator[tuple[str, Look]]:
        acts = self.num_acts()
        sums: dict[str, list[Look]] = defaultdict(list)
        for process in marked(self.mark):
            with suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if role := next((name for part, name in ROLES.items() if part in title), None):
                    memory = process.memory_info()
                    sums[role].append(Look(acts, (memory.rss - memory.shared) / 2**20, process.num_fds()))
        for file in self.home.glob("luthier.db*"):
            with suppress(FileNotFoundError):
                sums[STORE].append(Look(acts, file.stat().st_size / 2**20, 1))
        for role, found in sums.items():
            yield role, Look(acts, sum(each.mib for each in found), sum(each.files for each in found))

    @contextmanager
    def looking(self) -> Iterator[None]:
        ended = threading.Event()

        def forever() -> None:
            while not ended.wait(LOOK_SECONDS):
                self.look()

        thread = threading.Thread(target=forever)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def rise(looks: Sequence[Look]) -> float:
    """MiB for MANY acts, by least squares over all looks after the warm-up."""
    later = [look for look in looks if look.acts >= WARM_SHARE * looks[-1].acts]
    return float(linear_regression([look.acts / MANY for look in later], [look.mib for look in later]).slope)


def quarters(looks: Sequence[Look]) -> list[float]:
    """MiB, as means of each quarter of the time."""
    size = len(looks) // 4
    return [round(fmean(look.mib for look in looks[start * size : (start + 1) * size]), 1) for start in range(4)]
