"""What a run tells the registry and its folder while it goes on."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from luthier.errors import Unavailable
from luthier.platform.jobs import Event, EventType, Progress
from luthier.platform.run_files import RunFiles, read_answers, read_metrics
from luthier.train.config import FitConfig, StepRecord
from luthier.train.progress import News, Reporter, TimedStep
from tests.factories import make_job


class Reports:
    """Stands where the registry's jobs would; away while `is_away`."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []
        self.events: list[str] = []
        self.is_away = False

    def report(self, job_id: str, progress: Progress | None, events: Sequence[Event]) -> None:
        if self.is_away:
            raise Unavailable("away")
        if progress:
            self.seen.append(progress)
        self.events += [event.message for event in events]


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def config(tmp_path: Path) -> FitConfig:
    return FitConfig(job_id="ft_1", base_dir=tmp_path, train_file=tmp_path, storage_path=tmp_path / "runs")


@pytest.fixture
def reporter(reports: Reports, config: FitConfig) -> Reporter:
    return Reporter(make_job(), reports, config)


def met(step: int, loss: float = 1.0, validation: float | None = None, seconds: float | None = 2.0) -> TimedStep:
    record = StepRecord(
        step=step,
        epoch=1,
        training_loss=loss,
        validation_loss=validation,
        num_tokens=10,
        evaluated_tokens=7,
        learning_rate=1e-3,
    )
    return TimedStep(record, 1_000 + step, seconds)


def event(message: str) -> Event:
    return Event(time=1, type=EventType.CHECKPOINT_SAVED, message=message)


def rows(config: FitConfig) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = read_metrics(RunFiles(config.storage_path / "ft_1").metrics).to_pydict()
    return found


def test_a_worker_that_tells_no_steps_is_heard(reports: Reports, reporter: Reporter, config: FitConfig) -> None:
    reporter(News(events=[event("worker 1: words")]))
    assert (reports.events, reports.seen) == (["worker 1: words"], [])
    assert not config.storage_path.exists()


def test_a_step_that_arrives_twice_counts_once(reports: Reports, reporter: Reporter, config: FitConfig) -> None:
    reporter(News([met(1, 2.0), met(2, 1.0)], 4))
    reporter(News([met(2, 1.0), met(3, 0.0, validation=0.5)], 4))
    last = reports.seen[-1]
    assert (last.step, last.total_steps, last.trained_tokens, last.evaluated_tokens) == (3, 4, 30, 21)
    assert last.training_loss == 1.0
    assert last.validation_loss == 0.5
    assert rows(config)["step"] == [1, 2, 3]


def test_the_loss_shown_is_a_mean_of_the_last_steps(reports: Reports, reporter: Reporter) -> None:
    reporter(News([met(step, loss=float(step)) for step in range(1, 101)], 100))
    assert reports.seen[-1].training_loss == sum(range(91, 101)) / 10


def test_speed_is_of_this_process_alone(reports: Reports, reporter: Reporter) -> None:
    reporter(News([met(step) for step in range(1, 101)], 200))
    assert (reports.seen[-1].tokens_per_second, reports.seen[-1].seconds_left) == (None, None)
    reporter(News([met(101)], 200))
    last = reports.seen[-1]
    assert last.tokens_per_second is not None
    assert last.tokens_per_second > 0
    assert last.seconds_left == pytest.approx(99 * 10 / last.tokens_per_second)
    assert last.trained_tokens == 1010


def test_what_is_lost_with_the_registry_is_made_good_by_the_next(reports: Reports, reporter: Reporter) -> None:
    reports.is_away = True
    reporter(News([met(1)], 2, [event("step 1")]))
    reports.is_away = False
    reporter(News([met(2)], 2, [event("step 2")]))
    assert [progress.trained_tokens for progress in reports.seen] == [20]
    assert reports.events == ["step 1", "step 2"]
    reporter(News(events=[event("step 3")]))
    assert reports.events == ["step 1", "step 2", "step 3"]


def test_events_alone(reports: Reports, reporter: Reporter, config: FitConfig) -> None:
    reporter(News(events=[event("before any step")]))
    assert (reports.seen, reports.events) == ([], ["before any step"])
    assert not config.storage_path.exists()


def test_metrics_are_kept_through_a_restart(reports: Reports, reporter: Reporter, config: FitConfig) -> None:
    reporter(News([met(1, 2.0), met(2, 1.0, seconds=4.0), met(3)], 4))
    resumed = Reporter(make_job(), reports, config)
    resumed(News([met(1, 2.0, seconds=None), met(2, 1.0, seconds=None)], 4))
    resumed(News([met(3, 0.5), met(4, validation=0.25, seconds=None)], 4))
    kept = rows(config)
    assert kept["step"] == [1, 2, 3, 4]
    assert kept["training_loss"] == [2.0, 1.0, 0.5, 1.0]
    assert kept["validation_loss"] == [None, None, None, 0.25]
    assert kept["tokens_per_second"] == [5.0, 2.5, 5.0, None]
    assert kept["learning_rate"] == [1e-3] * 4
    assert len(list(RunFiles(config.storage_path / "ft_1").tensorboard.iterdir())) == 2


def test_answers_are_told_once(reports: Reports, config: FitConfig) -> None:
    """A resumed run tells the steps of its checkpoint again."""
    config = config.model_copy(update={"eval_prompts": ("why?", "how?")})
    answered = met(2)._replace(record=met(2).record.model_copy(update={"answers": ("because", "so")}))
    Reporter(make_job(), reports, config)(News([met(1), answered, met(3)], 4))
    Reporter(make_job(), reports, config)(News([met(1), answered, met(3), met(4)], 4))
    told = read_answers(RunFiles(config.storage_path / "ft_1").answers)
    assert [(each["step"], each["answer"]) for each in told] == [(2, "because"), (2, "so")]
