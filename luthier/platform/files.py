"""Files by an id: what clients upload for other requests to name, and what batches answer. Pure."""

import uuid
from enum import StrEnum
from typing import ClassVar

from luthier.platform.frozen import Frozen
from luthier.platform.securables import ObjectKind

DAY_SECONDS = 86_400
BATCH_SECONDS = 30 * DAY_SECONDS
"""A batch's input is kept so long unless its upload says otherwise; all other files until they are deleted."""
MIN_SECONDS, MAX_SECONDS = 3_600, 30 * DAY_SECONDS
"""What an expiry may be."""


class Purpose(StrEnum):
    """OpenAI's names."""

    BATCH = "batch"
    FINE_TUNE = "fine-tune"
    BATCH_OUTPUT = "batch_output"


UPLOADED = (Purpose.BATCH, Purpose.FINE_TUNE)


class StoredFile(Frozen):
    """A file that never changes. Times are epoch milliseconds."""

    kind: ClassVar[ObjectKind] = ObjectKind.FILE
    id: str
    account: str
    owner: str
    role: str
    filename: str
    """As its owner calls it."""
    purpose: Purpose
    size: int
    """Bytes."""
    sha256: str
    path: str
    created_on: int
    expires_on: int | None = None
    """From then on it is not there."""


def new_file_id() -> str:
    return f"file-{uuid.uuid4().hex}"
