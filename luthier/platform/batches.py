"""A batch: requests in a file, answered beside live traffic and after it; its states and the moves between them. Pure.

Line numbers begin at 1 and are those of the file.
"""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal

from luthier.errors import Conflict
from luthier.platform.access import Caller, own_request
from luthier.platform.files import StoredFile
from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageRecord
from luthier.platform.securables import ObjectKind

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
WINDOW_MS = 24 * 3_600_000
"""What is not answered by then never is."""


class BatchStatus(StrEnum):
    """OpenAI's names."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in MOVES


MOVES = {
    BatchStatus.VALIDATING: {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLING},
    BatchStatus.IN_PROGRESS: {BatchStatus.FINALIZING, BatchStatus.EXPIRED, BatchStatus.CANCELLING},
    BatchStatus.FINALIZING: {BatchStatus.COMPLETED},
    BatchStatus.CANCELLING: {BatchStatus.CANCELLED},
}
"""No entry: the status is final."""
ACTIVE = tuple(status.value for status in MOVES)


def check_move(batch_id: str, now: BatchStatus, to: BatchStatus) -> None:
    """Raises Conflict when a batch in `now` may not become `to`."""
    if to not in MOVES.get(now, set()):
        raise Conflict(f"Batch {batch_id} is {now.value} and cannot become {to.value}.")


class BatchFault(Frozen):
    """Why a batch's file is refused. `code` is one of OpenAI's."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Counts(Frozen):
    """Of a batch's lines: all, those answered, those refused."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Frozen):
    """A batch as the registry keeps it. Times are epoch milliseconds."""

    kind: ClassVar[ObjectKind] = ObjectKind.BATCH
    id: str
    account: str
    owner: str
    role: str
    key: str | None = None
    """The public id of the API key that asked for it."""
    endpoint: Endpoint
    input_file_id: str
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None
    """How long its output is kept; None: until it is deleted."""
    status: BatchStatus = BatchStatus.VALIDATING
    reached: dict[BatchStatus, int] = {}
    """When it came to each status."""
    attempt: int = 0
    """Processes that worked on it."""
    counts: Counts = Counts()
    faults: list[BatchFault] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_on: int
    expires_on: int


class Step(Frozen):
    """To its next status, and what is known of it from then on."""

    to: BatchStatus
    total: int | None = None
    faults: list[BatchFault] = []
    output: StoredFile | None = None
    errors: StoredFile | None = None


class Report(Frozen):
    """What a batch's results on disk come to."""

    completed: int
    failed: int
    usage: list[UsageRecord] = []
    """New ones; one that was reported before changes nothing."""


@dataclass(frozen=True)
class Line:
    """A request of a batch."""

    number: int
    custom_id: str
    body: bytes
    """JSON."""


class LineResult(Frozen):
    """What became of a line."""

    line: int
    output: str
    """As it stands in the output file or, for a line that failed, in the error file: JSON in ASCII."""
    usage: UsageRecord | None = None
    """Its bill: None when it failed."""


def new_batch_id(caller: Caller, idempotency_key: str | None) -> str:
    """Of the same key of his it is the same."""
    made = uuid.uuid4().hex if idempotency_key is None else own_request(caller, idempotency_key)[:32]
    return f"batch_{made}"


def source_id(batch: Batch, line: int) -> str:
    """Of a line in the ledger: however often it is tried, it is billed once."""
    return f"{batch.id}-{line}"
