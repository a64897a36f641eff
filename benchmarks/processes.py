"""CPU seconds of servers that a benchmark started, by what their processes are for."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MARK = "LUTHIER_BENCHMARK"
"""Environment variable of a server: all of its processes inherit it."""
GROUPS = {
    "APIServer": "front",
    "VLLM::": "engine",
    "ServeReplica:": "front",
    "api_server": "front",
    "ProxyActor": "proxy",
    "HAProxyManager": "proxy",
    "haproxy": "proxy",
    "RegistryActor": "registry",
}
"""By a part of the title, the first that fits. vLLM's engine is one process, or a core and workers."""
REST = "rest"
TRACKER_SECONDS, STOP_SECONDS = 3.0, 15.0
BUSY = 0.1
"""A thread computes when it took more than this share of what the busiest one took."""

Spent = dict[int, tuple[str, float]]
"""Group and CPU seconds so far, by process."""


def marked(mark: str) -> set[psutil.Process]:
    """The processes with this mark and all below them: one that sets its title may lose its environment."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found |= {process, *process.children(recursive=True)}
    return found


def spent(mark: str) -> Spent:
    """Of each process of a server, until now."""
    seconds: Spent = {}
    for process in marked(mark):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process.pid] = (group_of(_title(process)), times.user + times.system)
    return seconds


def between(before: Spent, after: Spent) -> dict[str, float]:
    """CPU seconds by group; a process that ended in between is not in it."""
    groups: dict[str, float] = defaultdict(float)
    for pid, (group, seconds) in after.items():
        groups[group] += seconds - before.get(pid, (group, 0.0))[1]
    return dict(groups)


@contextmanager
def counted(mark: str) -> Iterator[dict[str, float]]:
    """CPU seconds by group, once the block has run; `load` is this process, `others` all that has no part in it."""
    seconds: dict[str, float] = {}
    before, busy, own = spent(mark), busy_seconds(), time.process_time()
    yield seconds
    load, machine, after = time.process_time() - own, busy_seconds() - busy, spent(mark)
    seconds |= between(before, after) | {"load": 0.0 if os.getpid() in after else load}
    seconds["others"] = max(0.0, machine - sum(seconds.values()))


def group_of(title: str) -> str:
    return next((group for part, group in GROUPS.items() if part in title), REST)


def busy_seconds() -> float:
    """CPU seconds of the whole machine since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def engine_facts(mark: str) -> str:
    """How the engine's processes run: what must be alike on all sides. Ask it after they had work."""
    facts = set()
    for process in marked(mark):
        with suppress(psutil.Error):
            if group_of(_title(process)) == "engine":
                omp = process.environ().get("OMP_NUM_THREADS", "not set")
                facts.add(f"OMP_NUM_THREADS {omp}, threads that compute: {_computing(process)}, nice {process.nice()}")
    return "; ".join(sorted(facts))


def end(mark: str) -> None:
    """Kills what is left of a server and returns when it has ended."""
    left = marked(mark)
    # A resource tracker gives back the shared memory of killed processes, and ends.
    trackers = {process for process in left if _is_tracker(process)}
    _kill(left - trackers)
    psutil.wait_procs(list(trackers), timeout=TRACKER_SECONDS)
    _kill(trackers | marked(mark))


def _kill(processes: set[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=STOP_SECONDS)


def _is_tracker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "resource_tracker" in _title(process)
    return False


def _computing(process: psutil.Process) -> int:
    seconds = [thread.user_time + thread.system_time for thread in process.threads()]
    return sum(each > BUSY * max(seconds) for each in seconds)


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline())
