"""A fine-tuning job: its specification, states and the moves between them. Pure."""

import time
import uuid
from enum import StrEnum
from typing import Any, ClassVar

from luthier.errors import Conflict
from luthier.platform.frozen import Frozen
from luthier.platform.options import FinetuneOptions, Method
from luthier.platform.securables import ObjectKind
from luthier.platform.tasks import TaskType
from luthier.platform.told import Told


class JobStatus(StrEnum):
    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        return self not in MOVES


MOVES = {
    JobStatus.PENDING: {JobStatus.IN_PROGRESS, JobStatus.ERROR, JobStatus.CANCELLED},
    JobStatus.IN_PROGRESS: {JobStatus.SUCCESS, JobStatus.ERROR, JobStatus.CANCELLED},
}
"""No entry: the status is final."""
ACTIVE = tuple(status.value for status in MOVES)


def check_move(job_id: str, now: JobStatus, to: JobStatus) -> None:
    """Raises Conflict when a job in `now` may not become `to`."""
    if to not in MOVES.get(now, set()):
        raise Conflict(f"Job {job_id} is {now.value} and cannot become {to.value}.")


class JobError(Frozen):
    code: str
    message: Told


class Progress(Frozen):
    """Where a run stands. Losses are those of train/config.py's StepRecord; speed is of useful tokens, no padding."""

    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    trained_tokens: int = 0
    evaluated_tokens: int = 0
    """Of validation rows, and of eval_prompts with their answers, each time that they were asked."""
    tokens_per_second: float | None = None
    mfu: float | None = None
    """Model FLOPs utilization, 0.0 to 1.0; on a known GPU only."""
    seconds_left: float | None = None

    @property
    def share(self) -> float:
        """0.0 to 1.0."""
        return round(self.step / self.total_steps, 4) if self.total_steps else 0.0


class Job(Frozen):
    """A job as the registry keeps it. Times are epoch milliseconds."""

    kind: ClassVar[ObjectKind] = ObjectKind.JOB
    id: str
    account: str
    owner: str
    role: str
    key: str | None = None
    """The public id of the API key that asked for it."""
    model: str
    """Dotted name of the model that it makes."""
    base_model: str
    training_data: str
    validation_data: str
    options: FinetuneOptions
    report: dict[str, Any]
    """The data report of platform/data/report.py, as it was at CREATE."""
    status: JobStatus = JobStatus.PENDING
    attempt: int = 0
    lost: int = 0
    """Times that its run was lost since it last came further."""
    start_path: str | None = None
    """Weights of continue_from, as it was at CREATE."""
    progress: Progress = Progress()
    error: JobError | None = None
    trained_tokens: int | None = None
    evaluated_tokens: int | None = None
    training_loss: float | None = None
    validation_loss: float | None = None
    created_on: int
    started_on: int | None = None
    finished_on: int | None = None


class EventType(StrEnum):
    """Databricks' names, and ours for what a run meets on its way."""

    CREATED = "CREATED"
    CHECK_PASSED = "CHECK_PASSED"
    WAITING = "WAITING"
    """For room, its account's limit, or a larger cluster."""
    STARTED = "STARTED"
    MODEL_INITIALIZED = "MODEL_INITIALIZED"
    DATA_VALIDATED = "DATA_VALIDATED"
    BATCH_SIZE = "BATCH_SIZE"
    SHORTENED = "SHORTENED"
    """Its budget ends the job before its duration does."""
    TRAIN_STARTED = "TRAIN_STARTED"
    TRAIN_UPDATED = "TRAIN_UPDATED"
    """Once an epoch."""
    CHECKPOINT_SAVED = "CHECKPOINT_SAVED"
    CHECKPOINT_FAILED = "CHECKPOINT_FAILED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    WORKER_LOST = "WORKER_LOST"
    TRAIN_FINISHED = "TRAIN_FINISHED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    BILLED = "BILLED"
    """What it trained for nothing, as another job goes on from it."""
    REQUEUED = "REQUEUED"
    """The whole run was lost and begins another attempt."""


ATTEMPT_BEGINS = (EventType.STARTED, EventType.REQUEUED)


def shortened_words(trained_tokens: int) -> str:
    return f"The job's budget ends the run after {trained_tokens:,} trained tokens, before its duration does"


class Event(Frozen):
    """One line of a job's life."""

    id: int = 0
    """The job's first has 1, the next 2; 0 until the registry has it."""
    time: int
    type: str
    message: Told


class JobNews(Frozen):
    """A job as it stands, and its events after the last that the reader has seen."""

    job: Job
    events: list[Event]


class JobCensus(Frozen):
    """An account's jobs by status, and those that run now."""

    counts: dict[JobStatus, int]
    running: list[Job]


class FinishedModel(Frozen):
    """What a run hands over: the published adapter, or weights, and what it took."""

    path: str
    sha256: str
    """Hash over the adapter's files: the version's identity, never reused."""
    rank: int
    """Of the adapter; 0 for full weights."""
    method: Method = Method.LORA
    task_type: TaskType = TaskType.CHAT_COMPLETION
    trained_tokens: int
    evaluated_tokens: int = 0
    training_loss: float
    validation_loss: float


def new_job_id() -> str:
    return f"ft_{uuid.uuid4()}"


def is_job_id(text: str) -> bool:
    """Rather than a model's name, none of which has a dash."""
    return text.startswith("ft_") and "-" in text


def now_ms() -> int:
    return time.time_ns() // 1_000_000
