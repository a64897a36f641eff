"""What rank 0 of a run tells while it goes on: the metrics of each step to its folder, progress and events to the
registry. Speed is of useful tokens, no padding."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from luthier.errors import Unavailable
from luthier.platform.jobs import Event, Job, Progress
from luthier.platform.registry.jobs import Jobs
from luthier.platform.run_files import MetricsWriter, RunFiles, StepMetrics, answer_lines
from luthier.train.config import FitConfig, StepRecord
from luthier.train.mfu import Utilization
from luthier.train.trackers import TensorBoard

log = logging.getLogger(__name__)

SMOOTHING_STEPS = 10
"""The loss shown is a mean over so many steps: single steps are noise."""
LOG_SECONDS = 10.0


class TimedStep(NamedTuple):
    """A step as it was met."""

    record: StepRecord
    time: int
    """Epoch milliseconds."""
    seconds: float | None
    """Of the step alone; None where something else was done in between, or it was read from a checkpoint."""


@dataclass(frozen=True)
class News:
    """All that a run has to tell since the last time."""

    steps: Sequence[TimedStep] = ()
    num_steps: int = 0
    """Of the whole run."""
    events: Sequence[Event] = ()


@dataclass
class _Sums:
    """What the steps so far come down to."""

    last: StepRecord | None = None
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTHING_STEPS))
    validation_loss: float | None = None
    tokens: int = 0
    evaluated: int = 0

    def add(self, record: StepRecord) -> bool:
        """False for a step that was added before."""
        if self.last and record.step <= self.last.step:
            return False
        self.last = record
        self.losses.append(record.training_loss)
        self.tokens += record.num_tokens
        self.evaluated += record.evaluated_tokens
        self.validation_loss = record.validation_loss if record.validation_loss is not None else self.validation_loss
        return True


class _Folder:
    """The run's metrics as files. Opened in the process that trains, at its first step."""

    def __init__(self, config: FitConfig) -> None:
        files = RunFiles(config.storage_path / config.job_id)
        self._prompts, self._answers = config.eval_prompts, files.answers
        self._metrics = MetricsWriter(files.metrics)
        self._board = TensorBoard(files.tensorboard, config.rendering.task_type)
        self._utilization = Utilization(config)

    def add(self, steps: Sequence[TimedStep]) -> None:
        new = self._metrics.add(map(self._measured, steps))
        self._board.add(new)
        numbers = {step.step for step in new}
        answered = [step.record for step in steps if step.record.step in numbers and step.record.answers]
        if answered:
            with self._answers.open("a") as out:
                out.writelines(answer_lines(record.step, self._prompts, record.answers) for record in answered)

    def mfu(self, speed: float | None) -> float | None:
        return self._utilization.share(speed) if speed else None

    def _measured(self, step: TimedStep) -> StepMetrics:
        record, speed = step.record, None
        if step.seconds:
            speed = record.num_tokens / step.seconds
        told = record.model_dump(include=set(StepMetrics._fields))
        return StepMetrics(**told, time=step.time, tokens_per_second=speed, mfu=self.mfu(speed))


class Reporter:
    """Takes news in rank 0's process; a step that arrives twice counts once."""

    def __init__(self, job: Job, jobs: Jobs, config: FitConfig) -> None:
        self._job_id, self._jobs, self._config = job.id, jobs, config
        self._folder: _Folder | None = None
        self._sums = _Sums()
        self._first: tuple[float, int, int] | None = None
        self._events: list[Event] = []
        self._logged = 0.0

    def __call__(self, news: News) -> None:
        """The registry may be away: the next news brings all that this one would have."""
        self._events += news.events
        steps = [step for step in news.steps if self._sums.add(step.record)]
        if steps:
            self._folder = self._folder or _Folder(self._config)
            self._folder.add(steps)
        progress = self._progress(news.num_steps) if self._sums.last else None
        try:
            self._jobs.report(self._job_id, progress, self._events)
        except Unavailable as error:
            log.warning("%s", error.message)
            return
        self._events = []
        self._log(progress)

    def _progress(self, num_steps: int) -> Progress:
        sums = self._sums
        assert sums.last is not None
        assert self._folder is not None
        now = time.monotonic()
        self._first = self._first or (now, sums.tokens, sums.last.step)
        seconds, num_tokens, num = now - self._first[0], sums.tokens - self._first[1], sums.last.step - self._first[2]
        speed = num_tokens / seconds if num else None
        return Progress(
            step=sums.last.step,
            total_steps=num_steps,
            epoch=sums.last.epoch,
            training_loss=sum(sums.losses) / len(sums.losses),
            validation_loss=sums.validation_loss,
            trained_tokens=sums.tokens,
            evaluated_tokens=sums.evaluated,
            tokens_per_second=speed,
            mfu=self._folder.mfu(speed),
            seconds_left=(num_steps - sums.last.step) * seconds / num if num else None,
        )

    def _log(self, progress: Progress | None) -> None:
        now = time.monotonic()
        if progress and (now - self._logged >= LOG_SECONDS or progress.step == progress.total_steps):
            self._logged = now
            log.info(
                "step %d of %d, epoch %d, training loss %.4f, %d tokens",
                progress.step,
                progress.total_steps,
                progress.epoch,
                progress.training_loss,
                progress.trained_tokens,
            )
