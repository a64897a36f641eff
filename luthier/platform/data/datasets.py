"""The rows of a job: parted into training and validation, frozen beside the job."""

import random

import pyarrow as pa

from luthier.platform.frozen import Frozen
from luthier.platform.storage import Storage, write_parquet

VALIDATION_SHARE = 20
"""One row in so many is split off when no validation data is given."""
MAX_SPLIT_ROWS = 500


class Dataset(Frozen, arbitrary_types_allowed=True):
    """Text columns of one form of platform/tasks.py, the same in both tables."""

    training: pa.Table
    validation: pa.Table


def split(num_rows: int, seed: int) -> tuple[list[int], list[int]]:
    """Positions for training and for validation: a seeded share is split off (a single row serves as both)."""
    if num_rows == 1:
        return [0], [0]
    held = set(random.Random(seed).sample(range(num_rows), min(MAX_SPLIT_ROWS, max(1, num_rows // VALIDATION_SHARE))))
    return [row for row in range(num_rows) if row not in held], sorted(held)


def freeze(data: Dataset, storage: Storage, job_id: str) -> dict[str, str]:
    """Writes the job's snapshot and returns the sha256 of each file: later changes of a table do not reach the job."""
    folder = storage.job_dir(job_id)
    hashes = {}
    for name, table in (("train", data.training), ("validation", data.validation)):
        written = write_parquet(folder / f"{name}.parquet", table.schema, table.to_batches())
        hashes[f"{name}_sha256"] = written.sha256
    return hashes
