"""Training data before training: split, judged in tokens and credits, frozen. No torch."""

import random
from typing import Any

import pyarrow as pa

from luthier.errors import BadDataset
from luthier.platform.base_models import BaseModel
from luthier.platform.frozen import Frozen
from luthier.platform.jobs import FinetuneOptions
from luthier.platform.prices import PriceList, to_credits
from luthier.platform.prompts import Prompts, Sample
from luthier.platform.storage import Storage, write_parquet

VALIDATION_SHARE = 20
"""One row in so many is split off when no validation data is given."""
MAX_SPLIT_ROWS = 500


class Dataset(Frozen, arbitrary_types_allowed=True):
    """Rows with the columns prompt and completion."""

    training: pa.Table
    validation: pa.Table
    is_split: bool
    """The validation rows were split off the training data."""


class DataReport(Frozen):
    """What CREATE would train on. Tokens count the rendered prompt, the completion and its end token."""

    rows: int
    validation_rows: int
    validation_split: bool
    tokens: int
    """Of the training rows, for one epoch."""
    completion_tokens: int
    """The share of them that is learned."""
    longest_row: int
    rows_cut: int
    """Rows of both sets that exceed the base model's prompt or completion share and will be truncated."""
    max_epochs: int
    trained_tokens: int
    price_version: str
    credits: str


def split(training: pa.Table, validation: pa.Table | None, seed: int) -> Dataset:
    """The data of a job; without validation data a seeded share is split off (a single row serves as both)."""
    if validation is not None:
        return Dataset(training=training, validation=validation, is_split=False)
    num_rows = training.num_rows
    if num_rows == 1:
        return Dataset(training=training, validation=training, is_split=True)
    num_held = min(MAX_SPLIT_ROWS, max(1, num_rows // VALIDATION_SHARE))
    held = set(random.Random(seed).sample(range(num_rows), num_held))
    kept = [row for row in range(num_rows) if row not in held]
    return Dataset(training=training.take(kept), validation=training.take(sorted(held)), is_split=True)


def judge(data: Dataset, base: BaseModel, options: FinetuneOptions, prompts: Prompts, prices: PriceList) -> DataReport:
    """Counts exactly what the trainer will see; too many rows for the base model are refused."""
    limit = base.rows_per_epoch // options.max_epochs
    num_rows = data.training.num_rows + (0 if data.validation is data.training else data.validation.num_rows)
    if num_rows > limit:
        raise BadDataset(
            f"{num_rows} rows are too many: {base.name} takes {base.rows_per_epoch} rows / {options.max_epochs} epochs "
            f"= {limit}. Select fewer rows, or lower max_epochs."
        )
    training = [_sample(row, base, prompts) for row in data.training.to_pylist()]
    validation = [_sample(row, base, prompts) for row in data.validation.to_pylist()]
    tokens = sum(len(sample.ids) for sample in training)
    trained_tokens = tokens * options.max_epochs
    return DataReport(
        rows=len(training),
        validation_rows=len(validation),
        validation_split=data.is_split,
        tokens=tokens,
        completion_tokens=sum(len(sample.ids) - sample.num_prompt for sample in training),
        longest_row=max(len(sample.ids) for sample in [*training, *validation]),
        rows_cut=sum(sample.was_cut for sample in [*training, *validation]),
        max_epochs=options.max_epochs,
        trained_tokens=trained_tokens,
        price_version=prices.version,
        credits=str(to_credits(prices.training_ucr(base.price_class, trained_tokens))),
    )


def freeze(data: Dataset, storage: Storage, job_id: str) -> dict[str, str]:
    """Writes the job's snapshot and returns the sha256 of each file: later changes of a table do not reach the job."""
    folder = storage.job_dir(job_id)
    hashes = {}
    for name, table in (("train", data.training), ("validation", data.validation)):
        written = write_parquet(folder / f"{name}.parquet", table.schema, table.to_batches())
        hashes[f"{name}_sha256"] = written.sha256
    return hashes


def _sample(row: dict[str, Any], base: BaseModel, prompts: Prompts) -> Sample:
    return prompts.sample(row["prompt"], row["completion"], base.prompt_tokens, base.completion_tokens)
