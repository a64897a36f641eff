"""From a Parquet file of prompts and completions to training rows in tokens."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.errors import BadDataset
from luthier.platform.prompts import Prompts, Sample

COLUMNS = ("prompt", "completion")


def read_rows(path: Path) -> pa.Table:
    """The prompt and completion columns of a Parquet file."""
    if not path.is_file():
        raise BadDataset(f"Training data {path} is not there. Give the path of a Parquet file.")
    schema = pq.read_schema(path)
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        raise BadDataset(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(schema.names)}.")
    return pq.read_table(path, columns=list(COLUMNS))


def encode(rows: pa.Table, prompts: Prompts, max_prompt: int, max_completion: int) -> list[Sample]:
    """One sample a row, in the order of the rows."""
    if rows.num_rows == 0:
        raise BadDataset("The training data has no rows.")
    samples = []
    columns = (rows.column(name).to_pylist() for name in COLUMNS)
    for number, (prompt, completion) in enumerate(zip(*columns, strict=True), 1):
        if not isinstance(prompt, str) or not isinstance(completion, str):
            raise BadDataset(f"Row {number} of the training data has a prompt or completion that is not text.")
        samples.append(prompts.sample(prompt, completion, max_prompt, max_completion))
    return samples
