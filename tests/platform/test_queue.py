"""The rule of the queue: its limits, its order, and that nobody starves, for any queue."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.platform.queue import (
    PATIENCE_MS,
    Capacity,
    Limits,
    Priority,
    Queue,
    Queued,
    Wait,
    next_jobs,
    positions,
)
from luthier.platform.settings import GIB

NOW = 10 * PATIENCE_MS
ACCOUNTS = "abc"


def queued(draw: st.DrawFn, job_id: str) -> Queued:
    return Queued(
        id=job_id,
        account=draw(st.sampled_from(ACCOUNTS)),
        created_on=NOW - draw(st.sampled_from([0, 1, 2, PATIENCE_MS, PATIENCE_MS + 1, 2 * PATIENCE_MS])),
        priority=draw(st.sampled_from(Priority)),
        workers=draw(st.sampled_from([1, 1, 1, 2, 4, 7])),
    )


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    capacity = Capacity(
        jobs=draw(st.sampled_from([6, 4, 2, 1])), workers=draw(st.sampled_from([6, 3, 8, 1])), unit="GPU"
    )
    return Limits(capacity, account_jobs=draw(st.sampled_from([2, 1, 0])))


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    jobs = [queued(draw, f"ft_{number}") for number in range(draw(st.integers(2, 16)))]
    num_running = draw(st.sampled_from([0, 1, 2]))
    served = {account: NOW - draw(st.integers(0, 2 * PATIENCE_MS)) for account in ACCOUNTS if draw(st.booleans())}
    return Queue(jobs[num_running:], jobs[:num_running], served, NOW)


def workers(jobs: Sequence[Queued]) -> int:
    return sum(job.workers for job in jobs)


@given(queues(), limits())
def test_no_limit_is_passed(queue: Queue, limits: Limits) -> None:
    started, _ = next_jobs(queue, limits)
    assert len(set(started)) == len(started)
    assert set(started) <= set(queue.waiting)
    if started:
        running = [*queue.running, *started]
        assert len(running) <= limits.capacity.jobs
        assert workers(running) <= limits.capacity.workers
        counts = Counter(job.account for job in running)
        assert all(counts[job.account] <= limits.account_jobs for job in started if limits.account_jobs)


@given(queues(), limits())
def test_within_account_and_priority_only_a_larger_job_is_passed(queue: Queue, limits: Limits) -> None:
    started, _ = next_jobs(queue, limits)
    for job in started:
        for other in set(queue.waiting) - set(started):
            is_of_same_line = (other.account, other.priority) == (job.account, job.priority)
            if is_of_same_line and (other.created_on, other.id) < (job.created_on, job.id):
                assert other.workers > job.workers


@given(queues(), limits())
def test_room_is_left_for_no_job_or_for_one_that_waits_too_long(queue: Queue, limits: Limits) -> None:
    started, room = next_jobs(queue, limits)
    running = [*queue.running, *started]
    free = limits.capacity.workers - workers(running)
    counts = Counter(job.account for job in running)
    left = set(queue.waiting) - set(started)
    may_run = [job for job in left if not limits.account_jobs or counts[job.account] < limits.account_jobs]
    room_is_kept = any(
        job.created_on < NOW - PATIENCE_MS and free < job.workers <= limits.capacity.workers for job in may_run
    )
    if len(running) < limits.capacity.jobs and not room_is_kept:
        assert all(job.workers > free for job in may_run)
    for job in left:
        assert room.why_not(job) is not None
        assert room.reason(job).startswith("Waits for ")


@given(queues())
def test_positions_are_the_order_of_starts(queue: Queue) -> None:
    places = positions(queue)
    assert sorted(places.values()) == list(range(1, len(queue.waiting) + 1))
    roomy = Limits(Capacity(jobs=len(queue.running) + 2, workers=1000, unit="CPU"))
    started, _ = next_jobs(queue, roomy)
    assert [places[job.id] for job in started] == list(range(1, len(started) + 1))


class Cluster:
    """Jobs that come, start and end as a test says; the clock moves with every start."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.now, self.num_jobs = limits, NOW, 0
        self.waiting: list[Queued] = []
        self.running: list[Queued] = []
        self.served: dict[str, int] = {}

    def submit(self, account: str, priority: Priority = Priority.NORMAL, workers: int = 1) -> Queued:
        self.num_jobs += 1
        job = Queued(f"ft_{self.num_jobs:04}", account, self.now, priority, workers)
        self.waiting.append(job)
        return job

    def tick(self) -> list[Queued]:
        self.now += 1
        started, _ = next_jobs(Queue(self.waiting, self.running, self.served, self.now), self.limits)
        self.waiting = [job for job in self.waiting if job not in started]
        self.running += started
        self.served |= {job.account: self.now for job in started}
        return started


@given(st.data(), st.integers(1, 3), st.integers(0, 2))
def test_an_idle_account_waits_for_one_start_of_each_other(data: st.DataObject, num_slots: int, limit: int) -> None:
    """Whatever comes and ends, and whatever its priority once it has waited too long."""
    cluster = Cluster(Limits(Capacity(num_slots, num_slots, "CPU"), limit))
    passed: dict[str, Counter[str]] = {account: Counter() for account in ACCOUNTS}
    for _ in range(30):
        for account in data.draw(st.lists(st.sampled_from(ACCOUNTS), max_size=4)):
            cluster.submit(account, data.draw(st.sampled_from(Priority)))
        cluster.now += data.draw(st.sampled_from([1, PATIENCE_MS]))
        if cluster.running:
            cluster.running.pop(data.draw(st.integers(0, len(cluster.running) - 1)))
        started = [job.account for job in cluster.tick()]
        for account in ACCOUNTS:
            waits = [job for job in cluster.waiting if job.account == account]
            since = max(cluster.served.get(account, 0), min((job.created_on for job in waits), default=0))
            is_pressing = cluster.now - since > PATIENCE_MS or any(job.priority is Priority.HIGH for job in waits)
            if waits and is_pressing and not any(job.account == account for job in cluster.running):
                passed[account].update(started)
                assert all(count <= 1 for count in passed[account].values())
            else:
                passed[account].clear()


@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_flood_is_shared_with(num_slots: int) -> None:
    cluster = Cluster(Limits(Capacity(num_slots, num_slots, "CPU")))
    for _ in range(50):
        cluster.submit("flood")
    cluster.tick()
    for _ in range(6):
        cluster.submit("quiet")
    order = []
    for _ in range(12):
        cluster.running.pop(0)
        order += [job.account for job in cluster.tick()]
    assert order.count("quiet") == 6
    assert order[0] == "quiet"


def test_accounts_take_turns_up_to_their_limit() -> None:
    cluster = Cluster(Limits(Capacity(8, 8, "CPU"), account_jobs=2))
    for account in "aaabbb":
        cluster.submit(account)
    assert [job.account for job in cluster.tick()] == ["a", "b", "a", "b"]
    assert cluster.tick() == []


def test_the_account_with_fewer_running_jobs_goes_first() -> None:
    running = [Queued("r1", "a", 0), Queued("r2", "a", 0), Queued("r3", "b", 0)]
    waiting = [Queued("w1", "a", NOW - 9), Queued("w2", "b", NOW)]
    started, _ = next_jobs(Queue(waiting, running, {"a": NOW - 9, "b": NOW}, NOW), Limits(Capacity(4, 4, "CPU")))
    assert [job.id for job in started] == ["w2"]


def test_a_higher_priority_goes_first_and_a_starved_account_before_it() -> None:
    cluster = Cluster(Limits(Capacity(1, 1, "CPU")))
    low = cluster.submit("a", Priority.LOW)
    normal = cluster.submit("a")
    high = [cluster.submit("b", Priority.HIGH) for _ in range(4)]
    assert cluster.tick() == [high[0]]
    cluster.running.clear()
    assert cluster.tick() == [high[1]]
    cluster.running.clear()
    cluster.now += PATIENCE_MS
    assert cluster.tick() == [normal]
    cluster.running.clear()
    assert cluster.tick() == [high[2]]
    assert low in cluster.waiting


def test_a_large_job_is_passed_for_a_while_and_then_waited_for() -> None:
    cluster = Cluster(Limits(Capacity(4, 4, "GPU")))
    cluster.submit("a")
    cluster.tick()
    large = cluster.submit("b", workers=4)
    small = [cluster.submit("a") for _ in range(9)]
    assert cluster.tick() == small[:3]
    cluster.now += PATIENCE_MS
    while len(cluster.running) > 1:
        cluster.running.pop()
        assert cluster.tick() == []
    cluster.running.pop()
    assert cluster.tick() == [large]


def test_a_job_for_a_larger_cluster_holds_nobody_up() -> None:
    cluster = Cluster(Limits(Capacity(2, 2, "GPU")))
    huge = cluster.submit("a", Priority.HIGH, workers=3)
    cluster.now += 2 * PATIENCE_MS
    small = cluster.submit("a")
    assert cluster.tick() == [small]
    assert cluster.waiting == [huge]


def test_reasons() -> None:
    running = [Queued("r1", "a", NOW, workers=2), Queued("r2", "a", NOW)]
    job = Queued("w", "b", NOW, workers=2)
    limits = Limits(Capacity(jobs=3, workers=4, unit="GPU"), account_jobs=2)

    def reason(job: Queued, limits: Limits) -> tuple[Wait | None, str]:
        _, room = next_jobs(Queue([job], running, {}, NOW), limits)
        return room.why_not(job), room.reason(job)

    assert reason(job, limits) == (Wait.ROOM, "Waits for 2 GPUs to get free: 1 of 4 are.")
    assert reason(replace(job, account="a"), limits)[0] is Wait.ACCOUNT
    assert "of its own account to end: 2 run" in reason(replace(job, account="a"), limits)[1]
    kind, words = reason(replace(job, workers=5), limits)
    assert kind is Wait.CLUSTER
    assert (
        "needs 5 GPUs, one for each worker, and the cluster has 4 for training beside its engines. Lower num_workers"
        in words
    )
    small = replace(limits, capacity=replace(limits.capacity, memory=3 * GIB))
    kind, words = reason(replace(job, memory=4 * GIB), small)
    assert kind is Wait.CLUSTER
    assert (
        "needs at least 4.0 GiB of memory for each worker, activations left out, and a GPU of the cluster has" in words
    )
    assert reason(replace(job, memory=3 * GIB), small)[0] is Wait.ROOM
    full = replace(limits, capacity=Capacity(jobs=2, workers=4, unit="GPU"))
    assert reason(job, full) == (Wait.ROOM, "Waits for a job to end: 2 run, and no more may.")
    late = Queued("late", "b", NOW - PATIENCE_MS - 1, workers=4)
    _, room = next_jobs(Queue([late, replace(job, workers=1)], running, {}, NOW), limits)
    assert room.reason(replace(job, workers=1)) == "Waits for a larger job to start, which has waited longer."
