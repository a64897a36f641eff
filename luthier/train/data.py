"""From a job's frozen Parquet file to training examples in tokens."""

from pathlib import Path

import pyarrow.parquet as pq

from luthier.errors import BadDataset
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Example, Rendering, render
from luthier.platform.tasks import form_of, forms_text


def read_examples(path: Path, prompts: Prompts, how: Rendering) -> list[Example]:
    """The examples of a file, in the order of its rows."""
    if not path.is_file():
        raise BadDataset(f"Training data {path} is not there. Give the path of a Parquet file.")
    columns = form_of(how.task_type, pq.read_schema(path).names)
    if columns is None:
        names = ", ".join(pq.read_schema(path).names)
        raise BadDataset(f"{path.name} has the columns {names}; {how.task_type} wants {forms_text(how.task_type)}.")
    rows = pq.read_table(path, columns=list(columns)).to_pylist()
    for number, row in enumerate(rows, 1):
        if not all(isinstance(value, str) for value in row.values()):
            raise BadDataset(f"Row {number} of {path.name} has a value in {', '.join(columns)} that is not text.")
    examples = render(rows, prompts, how)
    if not examples:
        raise BadDataset(f"{path.name} has no rows to learn from.")
    return examples
