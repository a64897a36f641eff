"""Views whose rows may be as many as there are records: written to a file page by page, which the engine reads.

So a statement holds no more of them in memory than a page, and the engine what its limit allows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.errors import InvalidSql
from luthier.platform.access import Caller
from luthier.platform.names import parse_name
from luthier.platform.sql_engine import TableFile
from luthier.platform.sql_times import Times, times_of
from luthier.serve.services import Services

MAX_ROWS = 1_000_000
PAGE = 10_000
SCHEMA = "SNOWFLAKE.ACCOUNT_USAGE"

Row = dict[str, Any]
Rows = Callable[[Services, Caller, Times], Iterable[Row]]


@dataclass(frozen=True)
class FileView:
    kept: pa.Schema
    """Of the file."""
    rows: Rows
    select: str = "SELECT * FROM {rows}"
    """What makes the view's rows of the file's, of which some may belong together."""
    times: tuple[str, ...] = ()
    """Columns by which the view is narrowed."""
    narrow: str = ""
    """What to do when it has too many rows."""

    def write(self, services: Services, caller: Caller, name: str, statement: str, folder: Path) -> TableFile:
        path = folder / f"{name}.parquet"
        rows = iter(self.rows(services, caller, times_of(statement, name, self.times)))
        with pq.ParquetWriter(path, self.kept) as writer:
            for num, batch in enumerate(_batches(rows, self.kept)):
                if num * PAGE + batch.num_rows > MAX_ROWS:
                    raise InvalidSql(f"{name} has more than {MAX_ROWS:,} rows to be read. {self.narrow}")
                writer.write_batch(batch)
        return TableFile(parse_name(f"{SCHEMA}.{name}", "", ""), path, self.select)


def by_time(column: str) -> str:
    return f"Narrow it by time, such as WHERE {column} >= DATEADD(day, -7, CURRENT_TIMESTAMP())."


def _batches(rows: Iterator[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while some := list(islice(rows, PAGE)):
        yield pa.RecordBatch.from_pylist(some, schema)
