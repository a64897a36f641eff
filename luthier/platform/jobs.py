"""A fine-tuning job: its specification, states and the moves between them. Pure."""

import time
import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field, ValidationError

from luthier.errors import Conflict, InvalidInput
from luthier.platform.frozen import Frozen


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


class FinetuneOptions(Frozen):
    """What CREATE's options may say."""

    max_epochs: int = Field(3, ge=1, le=10)
    """Passes over the training data; each pass is billed."""
    learning_rate: float = Field(5e-4, gt=0, le=0.1)
    """Peak of a linear warm-up and decay."""
    batch_size: int = Field(8, ge=1, le=1024)
    """Rows an optimizer step."""
    lora_rank: int = Field(16, ge=1, le=256)
    """Rank of the adapter; the base model's row says how much can be served."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Fixes the validation split, the order of rows and the adapter's first weights."""


class JobError(Frozen):
    code: str
    message: str


class Progress(Frozen):
    """Where a run stands. Losses are means over completion tokens; speed is of useful tokens, no padding."""

    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    trained_tokens: int = 0
    tokens_per_second: float | None = None
    seconds_left: float | None = None

    @property
    def share(self) -> float:
        """0.0 to 1.0."""
        return round(self.step / self.total_steps, 4) if self.total_steps else 0.0


class Job(Frozen):
    """A job as the registry keeps it. Times are epoch milliseconds."""

    id: str
    account: str
    owner: str
    role: str
    model: str
    """Dotted name of the model that it makes."""
    base_model: str
    training_data: str
    validation_data: str
    options: FinetuneOptions
    report: dict[str, Any]
    """The data report of platform/datasets.py, as it was at CREATE."""
    status: JobStatus = JobStatus.PENDING
    attempt: int = 0
    progress: Progress = Progress()
    error: JobError | None = None
    trained_tokens: int | None = None
    training_loss: float | None = None
    validation_loss: float | None = None
    created_on: int
    started_on: int | None = None
    finished_on: int | None = None


class Event(Frozen):
    """One line of a job's life."""

    time: int
    type: str
    message: str


class FinishedModel(Frozen):
    """What a run hands over: the published adapter and what it took."""

    path: str
    sha256: str
    """Hash over the adapter's files: the version's identity, never reused."""
    rank: int
    trained_tokens: int
    training_loss: float
    validation_loss: float


def new_job_id() -> str:
    return f"ft_{uuid.uuid4()}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def parse_options(options: Mapping[str, Any] | None) -> FinetuneOptions:
    """Options as CREATE got them; InvalidInput names the key, the value and what is allowed."""
    try:
        return FinetuneOptions.model_validate(dict(options or {}), strict=True)
    except ValidationError as error:
        raise InvalidInput(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"Unknown option {key!r}. Options: {', '.join(FinetuneOptions.model_fields)}."
    return f"Option {key} = {first['input']!r}: {first['msg']}."
