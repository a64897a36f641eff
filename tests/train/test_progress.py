"""What a run tells the registry while it goes on."""

from luthier.errors import Unavailable
from luthier.platform.jobs import Progress
from luthier.train.config import StepRecord
from luthier.train.progress import Reporter
from tests.factories import make_job


class Reports:
    """Stands where the registry's jobs would; away while `is_away`."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []
        self.is_away = False

    def report(self, job_id: str, progress: Progress) -> None:
        if self.is_away:
            raise Unavailable("away")
        self.seen.append(progress)


def record(step: int, loss: float, validation: float | None = None) -> StepRecord:
    return StepRecord(step=step, epoch=1, training_loss=loss, validation_loss=validation, num_tokens=10)


def test_a_step_that_arrives_twice_counts_once() -> None:
    reports = Reports()
    reporter = Reporter(make_job(), reports)
    reporter([record(1, 2.0), record(2, 1.0)], 4)
    reporter([record(2, 1.0), record(3, 0.0, validation=0.5)], 4)
    last = reports.seen[-1]
    assert (last.step, last.total_steps, last.trained_tokens) == (3, 4, 30)
    assert last.training_loss == 1.0
    assert last.validation_loss == 0.5


def test_speed_is_of_this_process_alone() -> None:
    reports = Reports()
    reporter = Reporter(make_job(), reports)
    reporter([record(step, 1.0) for step in range(1, 101)], 200)
    assert reports.seen[-1].tokens_per_second is None
    reporter([record(101, 1.0)], 200)
    assert reports.seen[-1].tokens_per_second > 0
    assert reports.seen[-1].trained_tokens == 1010


def test_a_report_lost_with_the_registry_is_made_good_by_the_next() -> None:
    reports = Reports()
    reporter = Reporter(make_job(), reports)
    reports.is_away = True
    reporter([record(1, 1.0)], 2)
    reports.is_away = False
    reporter([record(2, 1.0)], 2)
    assert [progress.trained_tokens for progress in reports.seen] == [20]
