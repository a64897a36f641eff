"""What the registry keeps of a job's life, however often it is told."""

import pytest

from luthier.errors import NotFound
from luthier.platform.access import Caller
from luthier.platform.jobs import Event, EventType, JobError, JobStatus
from luthier.platform.models import Proof
from luthier.platform.registry.registry import Registry
from luthier.platform.webhooks import Outcome
from tests.factories import ADMIN, make_job, make_progress
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

STRANGER = Caller(account="other", user="x", role="y")
BEGINNING = [
    Event(time=1, type=EventType.MODEL_INITIALIZED, message="100 weights to train"),
    Event(time=2, type=EventType.TRAIN_STARTED, message="from step 1 of 4"),
]
SAVED = Event(time=3, type=EventType.CHECKPOINT_SAVED, message="step 2")


@pytest.fixture
def running(registry: Registry) -> str:
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    return "ft_1"


def told(registry: Registry, job_id: str = "ft_1") -> list[str]:
    """The events after the start."""
    return [event.type for event in registry.jobs.news(ADMIN, job_id).events][3:]


def test_a_resumed_run_tells_nothing_twice_in_an_attempt(registry: Registry, running: str) -> None:
    registry.jobs.report(running, None, BEGINNING)
    registry.jobs.report(running, make_progress(2), [SAVED, SAVED])
    resumed = Event(time=9, type=EventType.TRAIN_STARTED, message="from step 3 of 4")
    registry.jobs.report(running, make_progress(2), [*BEGINNING, resumed, SAVED])
    assert told(registry) == ["MODEL_INITIALIZED", "TRAIN_STARTED", "CHECKPOINT_SAVED", "TRAIN_STARTED"]
    assert [event.time for event in registry.jobs.news(ADMIN, running).events][3:] == [1, 2, 3, 9]


def test_another_attempt_tells_its_own(registry: Registry, running: str, launcher: Launcher) -> None:
    registry.jobs.report(running, None, BEGINNING)
    launcher.alive.clear()
    registry.jobs.tick()
    registry.jobs.report(running, None, BEGINNING)
    registry.jobs.note(running, EventType.TRAIN_FINISHED, "4 steps")
    registry.jobs.note(running, EventType.TRAIN_FINISHED, "4 steps")
    beginning = ["MODEL_INITIALIZED", "TRAIN_STARTED"]
    assert told(registry) == [*beginning, "REQUEUED", *beginning, "TRAIN_FINISHED"]


def test_what_comes_after_the_end_changes_nothing(registry: Registry, running: str) -> None:
    registry.jobs.cancel(ADMIN, running)
    registry.jobs.report(running, make_progress(2), BEGINNING)
    registry.jobs.note(running, EventType.TRAIN_FINISHED, "4 steps")
    assert told(registry) == ["CANCELED"]
    assert registry.jobs.run(running).progress.step == 0


def test_news_after_an_event(registry: Registry, running: str) -> None:
    first = registry.jobs.news(ADMIN, running)
    assert first.job.status is JobStatus.IN_PROGRESS
    assert [event.type for event in first.events] == ["CREATED", "CHECK_PASSED", "STARTED"]
    last = first.events[-1].id
    assert registry.jobs.news(ADMIN, running, last).events == []
    registry.jobs.report(running, None, BEGINNING)
    assert [event.type for event in registry.jobs.news(ADMIN, running, last).events] == told(registry)
    with pytest.raises(NotFound):
        registry.jobs.news(STRANGER, running)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_no_text_keeps_a_job_from_its_end(registry: Registry, running: str, text: str) -> None:
    """A worker's last words may have bytes in them that no store takes."""
    taken = {"a\0b": "ab", "a\ud800b": "a?b"}[text]
    registry.jobs.note(running, EventType.WORKER_LOST, text)
    failed = registry.jobs.fail(running, JobError(code="INTERNAL_ERROR", message=text), billable=False)
    assert (failed.status, failed.error and failed.error.message) == (JobStatus.ERROR, taken)
    assert [event.message for event in registry.jobs.news(ADMIN, running).events][3:] == [taken, taken]
    assert (Proof(reason=text).reason, Outcome(told=text).told) == (taken, taken)


def test_a_census_is_of_one_account(registry: Registry, running: str) -> None:
    registry.jobs.submit(make_job("ft_2", "LUTHIER.PUBLIC.OTHER"))
    registry.jobs.report(running, make_progress(2))
    census = registry.jobs.census(ADMIN)
    assert (census.counts[JobStatus.PENDING], census.counts[JobStatus.IN_PROGRESS]) == (1, 1)
    assert [(job.id, job.progress.step) for job in census.running] == [(running, 2)]
    registry.jobs.cancel(ADMIN, running)
    assert registry.jobs.census(ADMIN).counts[JobStatus.CANCELLED] == 1
    nothing = registry.jobs.census(STRANGER)
    assert (sum(nothing.counts.values()), nothing.running) == (0, [])
