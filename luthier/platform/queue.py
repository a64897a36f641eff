"""Whose turn it is: which waiting jobs start, in what order, and why the others wait. Pure.

A higher priority goes first; within it the account with the fewest running jobs, then the one served longest ago;
within an account the oldest job. So an account with no running job waits for at most one start of each other account.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from luthier.platform.settings import GIB

PATIENCE_MS = 600_000
"""An account that got nothing for so long has high priority; room is kept for a large job that waits for so long."""


class Priority(IntEnum):
    LOW = 0
    NORMAL = 1
    HIGH = 2


class Wait(IntEnum):
    """Why a job does not start; the greater the firmer."""

    ROOM = 1
    """Others run."""
    ACCOUNT = 2
    """Its account runs as many as it may."""
    CLUSTER = 3
    """The cluster is too small for it."""


@dataclass(frozen=True)
class Queued:
    """A job, as far as it matters here."""

    id: str
    account: str
    created_on: int
    priority: Priority = Priority.NORMAL
    workers: int = 1
    """Training processes, each with a GPU (or a CPU) of its own."""
    memory: int = 0
    """Bytes that each of them takes at the least."""


@dataclass(frozen=True)
class Queue:
    waiting: Sequence[Queued]
    running: Sequence[Queued]
    served: Mapping[str, int]
    """When a job of an account last started."""
    now: int


@dataclass(frozen=True)
class Capacity:
    """What a cluster can train at once, busy or not."""

    jobs: int
    workers: int
    """Of all jobs together."""
    unit: Literal["GPU", "CPU"]
    """What each worker has for itself."""
    gpu_share: float = 1.0
    """Of its GPU; the rest is a small engine's."""
    memory: int | None = None
    """Bytes that a worker can have at the most, of its GPU or of the largest node; None is not known."""

    def num_workers(self, asked: int | None, train_gpus: int) -> int:
        """Processes of a run: as asked, else what the base model takes and there is; without GPUs one."""
        return asked or max(1, min(train_gpus if self.unit == "GPU" else 1, self.workers))

    def count(self, workers: int) -> str:
        """What so many workers take: `1 GPU`, `2 GPUs`."""
        return f"{workers} {self.unit}{'' if workers == 1 else 's'}"

    def can_hold(self, workers: int, memory: int) -> bool:
        """Whether so many workers that take so many bytes each can run here, if nothing else does."""
        return workers <= self.workers and (self.memory is None or memory <= self.memory)

    def why_never(self, workers: int, memory: int) -> str | None:
        """Why they cannot, in a sentence; None when they can."""
        if self.can_hold(workers, memory):
            return None
        if workers > self.workers:
            return (
                f"The job needs {self.count(workers)}, one for each worker, and the cluster has {self.workers} for "
                f"training{' beside its engines' if self.unit == 'GPU' else ''}. Lower num_workers, or add nodes."
            )
        has = "a GPU" if self.unit == "GPU" else "the largest node"
        return (
            f"The job needs at least {memory / GIB:.1f} GiB of memory for each worker, activations left out, and {has} "
            f"of the cluster has at most {(self.memory or 0) / GIB:.1f} GiB."
        )

    def why_wait(self, workers: int, memory: int) -> str | None:
        """The same of a job that was accepted when the cluster was larger."""
        reason = self.why_never(workers, memory)
        return reason and f"Waits for a larger cluster. {reason}"


@dataclass(frozen=True)
class Limits:
    capacity: Capacity
    account_jobs: int = 0
    """Running jobs of one account; 0 is no limit."""


class Room:
    """What is left while jobs are started."""

    def __init__(self, queue: Queue, limits: Limits) -> None:
        self._capacity, self._limit, self._now = limits.capacity, limits.account_jobs, queue.now
        self._jobs = limits.capacity.jobs - len(queue.running)
        self._workers = limits.capacity.workers - sum(job.workers for job in queue.running)
        self._of_account = Counter(job.account for job in queue.running)
        self._is_kept = False

    @property
    def is_full(self) -> bool:
        return self._is_kept or self._jobs < 1 or self._workers < 1

    def take(self, job: Queued) -> bool:
        """Takes what the job needs, or nothing."""
        wait = self.why_not(job)
        if wait is None:
            self._jobs -= 1
            self._workers -= job.workers
            self._of_account[job.account] += 1
        elif wait is Wait.ROOM and self._now - job.created_on > PATIENCE_MS:
            self._is_kept = True  # smaller jobs have passed this one long enough
        return wait is None

    def why_not(self, job: Queued) -> Wait | None:
        """None when the job may start."""
        if not self._capacity.can_hold(job.workers, job.memory):
            return Wait.CLUSTER
        if self._limit and self._of_account[job.account] >= self._limit:
            return Wait.ACCOUNT
        return Wait.ROOM if self.is_full or job.workers > self._workers else None

    def reason(self, job: Queued) -> str:
        """`why_not` in a sentence."""
        if never := self._capacity.why_wait(job.workers, job.memory):
            return never
        wait = self.why_not(job)
        if wait is Wait.ACCOUNT:
            return f"Waits for a job of its own account to end: {self._limit} run, and no more may."
        if self._jobs < 1:
            return f"Waits for a job to end: {self._capacity.jobs} run, and no more may."
        if job.workers > self._workers:
            free, total = max(self._workers, 0), self._capacity.workers
            return f"Waits for {self._capacity.count(job.workers)} to get free: {free} of {total} are."
        return "Waits for a larger job to start, which has waited longer."


def next_jobs(queue: Queue, limits: Limits) -> tuple[list[Queued], Room]:
    """The jobs that start now, in this order, and what room is left then."""
    room = Room(queue, limits)
    return _start(queue, room), room


def positions(queue: Queue) -> dict[str, int]:
    """The place of each waiting job, from 1: the order in which they start if no other comes."""
    endless = Capacity(jobs=2**62, workers=2**62, unit="CPU")
    return {job.id: place for place, job in enumerate(_start(queue, Room(queue, Limits(endless))), 1)}


def _start(queue: Queue, room: Room) -> list[Queued]:
    """Gives each waiting job its turn at the room; one that starts counts for the turns after it."""
    lanes: dict[str, deque[Queued]] = defaultdict(deque)
    for job in sorted(queue.waiting, key=lambda job: (-job.priority, job.created_on, job.id)):
        lanes[job.account].append(job)
    running, served = Counter(job.account for job in queue.running), dict(queue.served)
    oldest = {account: min(job.created_on for job in lane) for account, lane in lanes.items()}

    def turn(account: str) -> tuple[int, int, int, int, str]:
        head, last = lanes[account][0], served.get(account, 0)
        is_starved = queue.now - max(last, oldest[account]) > PATIENCE_MS
        priority = Priority.HIGH if is_starved else head.priority
        return -priority, running[account], last, head.created_on, head.id

    turns = [(turn(account), account) for account in lanes]
    heapq.heapify(turns)
    started = []
    while turns and not room.is_full:
        _, account = heapq.heappop(turns)
        job = lanes[account].popleft()
        if room.take(job):
            started.append(job)
            running[account] += 1
            served[account] = queue.now
        if lanes[account]:
            heapq.heappush(turns, (turn(account), account))
    return started
