"""Step records on their way to the registry: where the run stands, how fast it is, what is left."""

import time
from collections.abc import Sequence
from contextlib import suppress

from luthier.errors import Unavailable
from luthier.platform.jobs import Job, Progress
from luthier.platform.registry.jobs import Jobs
from luthier.train.config import StepRecord

SMOOTHING_STEPS = 10
"""The loss shown is a mean over so many steps: single steps are noise."""


class Reporter:
    """Called in rank 0's worker with new records; a step that arrives twice counts once.

    Speed is measured over the steps of this process.
    """

    def __init__(self, job: Job, jobs: Jobs) -> None:
        self._job_id, self._jobs = job.id, jobs
        self._trained_tokens = int(job.report["trained_tokens"])
        self._first: tuple[float, int] | None = None
        self._records: dict[int, StepRecord] = {}

    def __call__(self, records: Sequence[StepRecord], total_steps: int) -> None:
        self._records.update({record.step: record for record in records})
        if self._records:
            history = [self._records[step] for step in sorted(self._records)]
            with suppress(Unavailable):  # the registry is away: the next report tells all that this one would have
                self._jobs.report(self._job_id, self._progress(history, total_steps))

    def _progress(self, history: Sequence[StepRecord], total_steps: int) -> Progress:
        tokens = sum(record.num_tokens for record in history)
        now = time.monotonic()
        self._first = self._first or (now, tokens)
        seconds, new_tokens = now - self._first[0], tokens - self._first[1]
        speed = new_tokens / seconds if new_tokens else None
        last = history[-SMOOTHING_STEPS:]
        validated = [record.validation_loss for record in history if record.validation_loss is not None]
        return Progress(
            step=history[-1].step,
            total_steps=total_steps,
            epoch=history[-1].epoch,
            training_loss=sum(record.training_loss for record in last) / len(last),
            validation_loss=validated[-1] if validated else None,
            trained_tokens=tokens,
            tokens_per_second=speed,
            seconds_left=(self._trained_tokens - tokens) / speed if speed else None,
        )
